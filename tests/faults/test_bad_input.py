"""Faults of input: invalid events and messages are kept with their reason, and nothing waits behind them."""

import base64
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import replace

from tests.faults.load import Fate, Input
from tests.faults.world import World

MEBIBYTE = 1 << 20
#: Bytes by which the envelopes of two events may differ: digits of their offsets and numbers.
DIGITS = 8
#: When jobs are submitted of which envelopes are compared (seconds since 1970): as many digits for each.
SUBMITTED = float(round(time.time()))
#: A message of a Celery client for a task that no worker has.
UNREGISTERED = {
    "body": "[[], {}, {}]",
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": {"id": "unregistered", "task": "no.such.task"},
    "properties": {},
}


def test_malformed_events(world: World) -> None:
    """Each is on the DLQ topic unchanged, and reported on the errors topic."""
    for number, changes in enumerate(_MALFORMED):
        plain = world.load.item("arrivals", entity=f"bad-{number}", fate="rejected")
        world.load.produce([_with(plain, changes), world.load.item("arrivals", entity=f"bad-{number}")])
    world.load.send()
    world.verify(runs=1)


def test_tombstones(world: World) -> None:
    """A tombstone that no stage asks for is passed over: it makes no task and no dead letter."""
    sent = world.load.item("parcels", entity="gone")
    world.load.produce([replace(sent, value=None)])
    # Nothing is to come of it.
    world.load.ledger.clear()
    world.load.send()
    world.verify(runs=1)
    assert not [read for read in world.observer.records("dlq") if read.key == sent.record_key]


def test_data_that_fits_no_stage(world: World) -> None:
    """Data that does not match the annotation is a dead letter at once, and its job fails."""
    for topic in ("arrivals", "parcels", "crates"):
        sent = world.load.item(topic, entity="unfit", fate="failed")
        value = json.dumps({"key": sent.key, "entity": 1, "seq": "none"}).encode()
        world.load.produce([replace(sent, value=value)])
    world.load.send()
    world.verify(runs=1)


def test_sizes_about_what_a_queue_takes(world: World) -> None:
    """The largest event that SQS accepts is done, or dead-lettered and redriven; a larger one is rejected."""
    measured = _sized(world, "a", MEBIBYTE, fate="rejected")
    # Kafka takes all of it as it is, and an envelope is larger than what is in it.
    filled = _sized(world, "b", 1_047_000, filling=_noise, fate="rejected")
    quoting = _sized(world, "c", 600_000, filling=_quotes, fate="rejected")
    world.load.produce([measured, _sized(world, "d", MEBIBYTE + 1, fate="rejected"), filled, quoting])
    largest = MEBIBYTE - _over_the_limit(world, measured)
    failing = _sized(world, "e", largest - DIGITS, do="early-fail-until-mended", fate="failed")
    fitting = _sized(world, "f", largest - DIGITS)
    world.load.produce([failing, fitting, _sized(world, "g", largest + DIGITS, fate="rejected")])
    world.load.send()
    world.verify()
    world.mend()
    world.redrive(failing)
    world.load.expect("mended", failing)
    world.verify()


def test_garbage_on_the_queue(world: World) -> None:
    """Garbage and unknown tasks become dead letters with their reason; the workers go on."""
    garbage = ["no json", "[]", '{"headers": 1}', "[" * 10_000, json.dumps(UNREGISTERED)]
    for body in garbage:
        world.observer.send_raw(body)
    world.load.send()
    world.verify(runs=1)
    reasons = {letter["Body"]: letter["MessageAttributes"]["reason"] for letter in world.observer.letters()}
    assert set(garbage) <= set(reasons)
    assert "no.such.task" in reasons[garbage[-1]]["StringValue"]


def _sized(
    world: World,
    entity: str,
    size: int,
    *,
    filling: Callable[[int], str] = "x".__mul__,
    do: str = "",
    fate: Fate = "complete",
) -> Input:
    """Return an event whose data has that many bytes; ``filling`` makes a string of a JSON size."""
    sent = world.load.item("parcels", entity=entity, fate=fate, do=do, filling="", submitted_at=SUBMITTED)
    assert sent.value is not None
    data = json.loads(sent.value) | {"filling": filling(size - len(sent.value))}
    return replace(sent, value=json.dumps(data).encode())


def _noise(count: int) -> str:
    """Return text that Kafka cannot compress."""
    return base64.b64encode(random.randbytes(count))[:count].decode()


def _quotes(count: int) -> str:
    """Return quotes: two bytes each in JSON, four in JSON within JSON."""
    return '"' * (count // 2)


def _over_the_limit(world: World, sent: Input) -> int:
    """Return the bytes beyond SQS's limit, as the error event has them."""
    told: list[str] = []

    def is_told() -> bool:
        errors = world.observer.records("errors")
        told[:] = [read.data["message"] for read in errors if read.data.get("entity_id") == sent.entity]
        return bool(told)

    world.wait(is_told, "an error event of what is too large")
    size, limit, room = map(int, re.findall(r"\d+", told[0].partition("the message has")[2])[:3])
    return size + room - limit


_MALFORMED: list[dict[str, object]] = [
    {"value": b"{not json"},
    {"value": b"\xff\xfe"},
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
