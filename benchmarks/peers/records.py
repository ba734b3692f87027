"""Records: the bridge of ours with the same orders in JSON and in Avro, whose schema a registry has."""

import io
import json as text
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.fill import first_event, produce_all, record, stage_event
from benchmarks.ground import Ground
from benchmarks.peer import Ready, on_sqs, queue_depth
from benchmarks.peers.ours import BRIDGE
from benchmarks.stages import double
from pipeline.errors import ConfigurationError
from pipeline.kafka import OutgoingRecord
from pipeline.registry import Schema, SchemaRegistry
from pipeline.registry.frames import frame
from pipeline.services import jars
from pipeline.services.local import free_port, keeping, wait_for_server
from pipeline.services.servers import HOST, REGISTRY_PATH, Registry

#: An order of five items: some 380 bytes in JSON, 120 in Avro.
SCHEMA = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "number", "type": "long"},
        {"name": "customer", "type": "string"},
        {"name": "express", "type": "boolean"},
        {"name": "note", "type": ["null", "string"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {
            "name": "items",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "Item",
                    "fields": [
                        {"name": "article", "type": "string"},
                        {"name": "count", "type": "int"},
                        {"name": "price", "type": "double"},
                    ],
                },
            },
        },
    ],
}


@dataclass(kw_only=True)
class Records:
    """The bridge with records of one format. Both have the registry beside them, and the same settings."""

    name: str
    in_avro: bool

    def missing(self) -> str | None:
        """Return what the registry or the schema's library needs."""
        try:
            jars.require_programs([Registry.name])
            import fastavro  # noqa: F401 - an extra
        except (ConfigurationError, ImportError) as error:
            return str(error)
        return None

    @contextmanager
    def sending(self, ground: Ground, events: int) -> Iterator[Ready]:
        """Put events on Kafka, in the middle of their jobs, so that no job is opened."""
        with _registry() as url:
            ground = replace(ground, environment={**ground.environment, "SCHEMA_REGISTRY_URL": url})
            made = [_order(number) for number in range(events)]
            sent = [_record(ground, order) for order in made]
            if self.in_avro:
                sent = _in_avro(ground, url, sent, made)
            produce_all(ground, sent)
            yield on_sqs(ground, BRIDGE, ("sqs", "dynamodb"), queue_depth(ground))


json = Records(name="json", in_avro=False)
avro = Records(name="avro", in_avro=True)


def _order(number: int) -> dict[str, Any]:
    items = [{"article": f"article-{n}", "count": n + 1, "price": 9.99 + n} for n in range(5)]
    return {
        "number": number,
        "customer": f"customer {number % 1000}",
        "express": number % 2 == 0,
        "note": None,
        "at": 1_780_000_000_000 + number,
        "items": items,
    }


def _record(ground: Ground, order: dict[str, Any]) -> OutgoingRecord:
    assert double.emits is not None
    event = first_event(double.emits, text.dumps(order).encode())
    return record(ground, stage_event(ground, double.name, event))


def _in_avro(
    ground: Ground, url: str, sent: list[OutgoingRecord], orders: list[dict[str, Any]]
) -> list[OutgoingRecord]:
    """Return the same records with their values as Confluent's serializers write them."""
    import fastavro

    settings = ground.settings.model_copy(update={"schema_registry_url": url})
    schema_id = SchemaRegistry(settings).register("orders", Schema(kind="AVRO", text=text.dumps(SCHEMA)))
    parsed, framed = fastavro.parse_schema(SCHEMA), []
    for each, order in zip(sent, orders, strict=True):
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, parsed, order)
        framed.append(replace(each, value=frame(schema_id, stream.getvalue())))
    return framed


@contextmanager
def _registry() -> Iterator[str]:
    """Run a schema registry for the block; return its URL."""
    folder = Path(tempfile.mkdtemp(prefix="pipeline-registry-"))
    server, ports = Registry(folder=folder, keep=False), {"registry": free_port(())}
    with keeping(folder, remove=True):
        server.process.start(server.prepare(jars.fetch(server.name, lambda _: None), ports))
        wait_for_server(server, ports)
        yield f"http://{HOST}:{ports['registry']}{REGISTRY_PATH}"
