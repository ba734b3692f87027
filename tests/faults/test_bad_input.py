"""Input that cannot become a task, or no good one: kept, named, and nothing behind it waits."""

import json
from dataclasses import replace

from tests.faults.load import Input
from tests.faults.world import World


def test_malformed_events(world: World) -> None:
    """Each is on the DLQ topic as it was, and told on the errors topic."""
    for number, changes in enumerate(_MALFORMED):
        plain = world.load.item("arrivals", entity=f"bad-{number}", fate="rejected")
        world.load.produce([_with(plain, changes), world.load.item("arrivals", entity=f"bad-{number}")])
    world.load.send()
    world.verify(runs=1)


def test_data_that_fits_no_stage(world: World) -> None:
    """JSON, and not what the stage's annotation asks for: a dead letter at once, and a failed job."""
    for topic in ("arrivals", "parcels", "crates"):
        sent = world.load.item(topic, entity="unfit", fate="failed")
        value = json.dumps({"key": sent.key, "entity": 1, "seq": "none"}).encode()
        world.load.produce([replace(sent, value=value)])
    world.load.send()
    world.verify(runs=1)


def test_too_large_for_a_queue(world: World) -> None:
    """A megabyte that Kafka took and SQS does not: rejected with its reason."""
    sent = world.load.item("arrivals", entity="large", fate="rejected", filling="x" * 1_047_000)
    world.load.produce([sent])
    world.load.send()
    world.verify(runs=1)


def test_garbage_on_the_queue(world: World) -> None:
    """What is no task at all: a dead letter, and the workers go on."""
    for body in ("no json", "[]", '{"headers": 1}', "[" * 10_000):
        world.observer.send_raw(body)
    world.load.send()
    world.verify(runs=1)
    assert len(world.observer.letters()) >= 4


_MALFORMED: list[dict[str, object]] = [
    {"value": b"{not json"},
    {"value": b"\xff\xfe"},
    {"value": None},
    {"value": b"[" * 10_000 + b"]" * 10_000},
    {"header": ("ce_specversion", b"9.9")},
    {"header": ("ce_id", b"")},
    {"header": ("ce_type", b"\xff\xfe")},
    {"header": ("content-type", b"application/cloudevents+json")},
]


def _with(plain: Input, changes: dict[str, object]) -> Input:
    headers = dict(plain.headers)
    if isinstance(header := changes.get("header"), tuple):
        headers[header[0]] = header[1]
    value = changes.get("value", plain.value)
    assert value is None or isinstance(value, bytes)
    return replace(plain, value=value, headers=tuple(headers.items()))
