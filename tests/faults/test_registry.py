"""Faults of the schema registry: it ends amid records with a new schema and comes back; it answers late."""

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import fastavro
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from pipeline.registry.frames import frame
from pipeline.services.servers import REGISTRY_PATH
from tests.faults.load import Input, Mix
from tests.faults.wire import Answer, Passage, Wire
from tests.faults.world import Process, World
from tests.registry import RunningRegistry, registry

#: Records of each schema.
FEW = 6
#: Seconds after which a slow registry answers; ten are its limit (pipeline/registry/client.py).
SLOW = 3.0


@dataclass(kw_only=True)
class Schemas:
    """A registry that the bridge reaches through the wire."""

    world: World
    registry: RunningRegistry
    wire: Wire
    bridge: Process
    #: The schemas that records have, by their ids.
    known: dict[int, object] = field(default_factory=dict)

    def new(self, name: str) -> int:
        """Register a schema that no process has seen; return its id."""
        kinds = {"key": "string", "entity": "string", "seq": "int", "parts": "int"}
        fields = [{"name": each, "type": kind} for each, kind in kinds.items()]
        schema = {"type": "record", "name": f"{name}_{self.bridge.name.replace('-', '_')}", "fields": fields}
        with SchemaRegistryClient({"url": self.registry.url}) as client:
            schema_id = int(client.register_schema(schema["name"], Schema(json.dumps(schema), "AVRO")))
        self.known[schema_id] = fastavro.parse_schema(schema)
        return schema_id

    def item(self, schema_id: int, entity: str) -> Input:
        """Return an event of two hops that is written with a schema."""
        made, stream = self.world.load.item("parcels", entity=entity), io.BytesIO()
        fastavro.schemaless_writer(stream, self.known[schema_id], json.loads(made.value or b""))
        headers = {**dict(made.headers), "content-type": b"application/avro"}
        return replace(made, value=frame(schema_id, stream.getvalue()), headers=tuple(headers.items()))

    def wait_log(self, event: str) -> None:
        """Wait until the bridge has logged an event of the registry."""

        def found() -> bool:
            lines = self.bridge.log.splitlines()
            return any(f'"{event}"' in line and '"schema registry"' in line for line in lines)

        self.world.wait(found, f"{event} of the registry")

    def wait_for_others(self) -> None:
        """Send events of the other topics; wait until each of them has come to its end."""
        usual = self.world.load.mix
        mix = Mix(entities=usual.entities, arrivals=FEW, parcels=0, crates=2, pieces=usual.pieces)
        for each in self.world.load.send(mix):
            self.world.wait_effect("gather" if each.topic == "crates" else "end", each)


@pytest.fixture
def schemas(world: World) -> Iterator[Schemas]:
    """A bridge with a registry, which ends with the fault, as others have none."""
    with registry(keep=True) as running, Wire({"registry": running.url}).running() as wire:
        url = wire.open("bridge")["registry"] + REGISTRY_PATH
        for process in world.of("bridge"):
            world.stop(process)
        bridge = world.start("bridge", SCHEMA_REGISTRY_URL=url)
        world.ready()
        try:
            yield Schemas(world=world, registry=running, wire=wire, bridge=bridge)
        finally:
            if bridge.lives:
                world.kill(bridge)


def test_the_registry_ends_amid_a_new_schema(schemas: Schemas) -> None:
    """Records of the new schema wait and say why; those of a known one and of other topics run meanwhile."""
    world = schemas.world
    old, new = schemas.new("Old"), schemas.new("New")
    (first,) = world.load.produce([schemas.item(old, "first")])
    world.wait_effect("end", first)
    schemas.registry.stop()
    # In one partition, in turn: what is behind a record that waits must wait, too.
    mixed = world.load.produce([schemas.item(each, "mixed") for _ in range(FEW) for each in (old, new)])
    world.wait_effect("end", mixed[0])
    schemas.wait_log("service.unanswered")
    schemas.wait_for_others()
    assert not any(world.effects("start", each) for each in mixed[1:])
    schemas.registry.start()
    schemas.wait_log("service.answered")
    world.load.send()
    world.verify(runs=1)


def test_the_registry_answers_late(schemas: Schemas) -> None:
    """Records wait for each answer; other topics run meanwhile."""
    world, gone_on = schemas.world, threading.Event()

    async def late(passage: Passage) -> Answer | None:
        await asyncio.sleep(SLOW)
        while not gone_on.is_set():
            await asyncio.sleep(0.1)
        return await passage.forward()

    ids = [schemas.new(f"Late{number}") for number in range(3)]
    with schemas.wire.rule(late):
        sent = world.load.produce([schemas.item(each, "late") for _ in range(FEW) for each in ids])
        schemas.wait_for_others()
        assert not any(world.effects("start", each) for each in sent)
        gone_on.set()
        world.load.send()
        world.verify(runs=1)
