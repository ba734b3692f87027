"""The documents as rows of a database's table, whose changes Debezium writes to Kafka.

No database and no Debezium run: the demo writes the records that they would write.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.kafka import EventProducer, OutgoingRecord
from pipeline.kafka.producer import EMIT_TIMEOUT
from pipeline.settings import Settings
from pipeline.wire import identity
from pipeline.wire.events import source_of

#: The topic, named as Debezium names it: the connector's logical name, the schema, the table.
TOPIC: Final = "library.public.documents"

#: The consumer of the changes, in ``pipeline.demo.rows``.
CONSUMER: Final = "document-added"
#: Its module: processes of a demo that reads no changes do not load it.
CONSUMER_MODULE: Final = "pipeline.demo.rows"


class Table:
    """The table: one row for each document, with its number as the primary key."""

    def __init__(self, settings: Settings, producer: EventProducer) -> None:
        self._topic = settings.topic_of_others(TOPIC)
        self._source = source_of(settings.service_name, CONSUMER)
        self._producer = producer
        self._rows = 0

    def add(self, documents: Sequence[Path]) -> dict[str, Path]:
        """Write the change that adds a row for each document; return the documents by job id.

        The last change is written twice: Debezium may write a change again after it was restarted. Raises
        a ``ServiceError`` for a record that Kafka did not acknowledge.
        """
        numbered = list(enumerate(documents, self._rows + 1))
        self._rows += len(numbered)
        records = [self._record(number, path) for number, path in numbered]
        for error in self._producer.emit([*records, *records[-1:]], EMIT_TIMEOUT):
            if error:
                raise error
        return {identity.job_id(self._source, event_id(number)): path for number, path in numbered}

    def _record(self, number: int, path: Path) -> OutgoingRecord:
        key, value = (_dump(each) for each in ({"id": number}, creation(number, path)))
        return OutgoingRecord(topic=self._topic, key=key, value=value)


def event_id(number: int) -> str:
    """Return the id of the event that the consumer makes of a new row: the same if the change comes again."""
    return f"document-{number}"


def creation(number: int, path: Path) -> dict[str, Any]:
    """Return Debezium's envelope of an INSERT in PostgreSQL, in JSON without a schema."""
    now = time.time_ns()
    return {
        "before": None,
        "after": {"id": number, "path": str(path)},
        "source": {
            "version": "3.0.0.Final",
            "connector": "postgresql",
            "name": "library",
            **_moment(now),
            "snapshot": "false",
            "db": "library",
            "schema": "public",
            "table": "documents",
            "txId": number,
            "lsn": number,
            "xmin": None,
        },
        "op": "c",
        **_moment(now),
        "transaction": None,
    }


def _moment(nanoseconds: int) -> dict[str, int]:
    return {
        "ts_ms": nanoseconds // 1_000_000,
        "ts_us": nanoseconds // 1_000,
        "ts_ns": nanoseconds,
    }


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
