"""Validation of control records before Celery gets them, and the commands that a worker accepts."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.control.controlmessage import (
    CHECKS,
    CLOCKS_DIFFER,
    COMMANDS,
    EVENTS,
    REPLIES,
    count_events,
    decode,
    encode,
    is_control_queue,
    is_for_now,
    is_old_sign_of_life,
)
from pipeline.control.topicreader import Backlog
from pipeline.errors import InvalidInputError
from pipeline.kafka import ReceivedRecord
from pipeline.transport.envelope import PARSED


def payload(body: object, **headers: object) -> dict[str, Any]:
    return {
        "body": json.dumps(body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {"delivery_tag": "t", "delivery_info": {}},
    }


def received(body: object, **headers: object) -> dict[str, Any]:
    return decode(encode(payload(body, **headers)))


COMMAND: dict[str, object] = {
    "method": "ping",
    "arguments": {},
    "destination": None,
    "pattern": None,
    "matcher": None,
}
EVENT = {"type": "task-received", "hostname": "w", "timestamp": 1.0, "utcoffset": 0, "clock": 1, "uuid": "u"}


def test_a_message_comes_through() -> None:
    """kombu reads the message that kombu wrote, with the body parsed."""
    assert received(COMMAND, clock=1)[PARSED] == COMMAND
    assert received(COMMAND, clock=1)["headers"] == {"clock": 1}


@pytest.mark.parametrize(
    ("exchange", "body"),
    [
        (COMMANDS, COMMAND),
        (COMMANDS, COMMAND | {"destination": ["w"], "reply_to": {"exchange": REPLIES, "routing_key": "k"}}),
        (COMMANDS, COMMAND | {"pattern": "web*@host", "matcher": "glob"}),
        (COMMANDS, {"method": "shutdown"}),
        (EVENTS, EVENT),
        (EVENTS, [EVENT, EVENT]),
        (EVENTS, {"type": "worker-heartbeat", "hostname": "w", "timestamp": 1}),
        (REPLIES, {"w": {"ok": "pong"}}),
    ],
)
def test_what_celery_sends_is_delivered(exchange: str, body: object) -> None:
    """Commands, events and replies as Celery makes them pass their checks."""
    CHECKS[exchange](received(body))


@pytest.mark.parametrize(
    ("exchange", "body"),
    [
        (COMMANDS, None),
        (COMMANDS, []),
        (COMMANDS, {}),
        (COMMANDS, COMMAND | {"method": None}),
        (COMMANDS, COMMAND | {"arguments": [1]}),
        (COMMANDS, COMMAND | {"destination": "w"}),
        (COMMANDS, COMMAND | {"destination": [1]}),
        (COMMANDS, COMMAND | {"pattern": 1}),
        (COMMANDS, COMMAND | {"pattern": "*" * 201, "matcher": "glob"}),
        (COMMANDS, COMMAND | {"matcher": "magic"}),
        (COMMANDS, COMMAND | {"pattern": "(a*)*$", "matcher": "pcre"}),
        (COMMANDS, COMMAND | {"reply_to": {"exchange": REPLIES}}),
        (COMMANDS, COMMAND | {"reply_to": {"exchange": "", "routing_key": "orders.fifo"}}),
        (EVENTS, None),
        (EVENTS, [EVENT, 1]),
        (EVENTS, EVENT | {"type": 1}),
        (EVENTS, EVENT | {"hostname": None}),
        (EVENTS, EVENT | {"uuid": None}),
        (EVENTS, EVENT | {"timestamp": "now"}),
        (EVENTS, EVENT | {"clock": float("nan")}),
        (EVENTS, EVENT | {"clock": 10**400}),
        *((EVENTS, EVENT | {"runtime": each}) for each in (float("nan"), float("inf"), 1e300, "1", True)),
        *((EVENTS, EVENT | {name: "x" * 600}) for name in ("type", "hostname", "uuid", "name")),
        (EVENTS, EVENT | {"name": 7}),
        (REPLIES, ["pong"]),
    ],
)
def test_what_would_trip_celery_is_refused(exchange: str, body: object) -> None:
    """Each of these would raise in Celery's mailbox or in Flower's reader."""
    with pytest.raises(InvalidInputError):
        CHECKS[exchange](received(body))


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_raise_anything_else(value: bytes) -> None:
    """A record with any content is a message or an InvalidInputError."""
    with pytest.raises(InvalidInputError):
        decode(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda children: (
            st.lists(children, max_size=3)
            | st.dictionaries(
                st.sampled_from(["method", "arguments", "destination", "type", "hostname", "uuid", "clock"])
                | st.text(max_size=3),
                children,
                max_size=4,
            )
        ),
        max_leaves=10,
    )
)
def test_no_body_raises_anything_else(body: object) -> None:
    """A body with any content passes or is an InvalidInputError, for each exchange."""
    try:
        message = received(body)
        for check in CHECKS.values():
            check(message)
    except InvalidInputError:
        pass


def test_old_commands_are_not_carried_out() -> None:
    """Of the past a worker hears what was revoked, unanswered; else what has not expired."""
    reply_to = {"exchange": REPLIES, "routing_key": "k"}
    revoke = received({"method": "revoke", "arguments": {"task_id": "t"}, "reply_to": reply_to}, expires=1.0)
    assert is_for_now(revoke, past=True)
    assert is_for_now(received({"method": "revoke_by_stamped_headers"}, expires=1.0), past=True)
    assert "reply_to" not in revoke[PARSED]
    shutdown = {"method": "shutdown"}
    assert not is_for_now(received(shutdown), past=True)
    assert is_for_now(received(shutdown), past=False)
    assert is_for_now(received(shutdown, expires=0), past=False)
    assert is_for_now(received(shutdown, expires=time.time() - CLOCKS_DIFFER / 2), past=False)
    assert not is_for_now(received(shutdown, expires=time.time() - CLOCKS_DIFFER * 2), past=False)


def record(key: bytes, age: float = 0, value: bytes = b"") -> ReceivedRecord:
    return ReceivedRecord(
        topic="t",
        partition=0,
        offset=0,
        timestamp_ms=round((time.time() - age) * 1000),
        key=key,
        value=value,
        headers=(),
    )


def test_old_signs_of_life_are_not_shown() -> None:
    """A heartbeat of an hour ago makes nobody online; what happened to tasks is shown however old it is."""
    assert is_old_sign_of_life(record(b"worker.heartbeat", age=3600))
    assert not is_old_sign_of_life(record(b"worker.heartbeat"))
    assert not is_old_sign_of_life(record(b"task.multi", age=3600))


def test_a_backlog_keeps_the_newest_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is bounded by events, of which a record may hold several, and keeps their order."""
    monkeypatch.setattr("pipeline.control.topicreader.MOST", 5)
    batch, single = encode(payload([EVENT, EVENT])), encode(payload(EVENT))
    backlog = Backlog()
    for number, value in enumerate((batch, single, batch, single, single)):
        backlog.add(record(b"%d" % number, value=value))
    assert [message.key for message in backlog.take_all()] == [b"1", b"2", b"3", b"4"]
    assert list(backlog.take_all()) == []


def test_a_backlog_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records may be far larger than those of workers."""
    monkeypatch.setattr("pipeline.control.topicreader.MOST_BYTES", 2_500)
    backlog = Backlog()
    for number in range(5):
        backlog.add(record(b"%d" % number, value=b"x" * 1_000))
    assert [message.key for message in backlog.take_all()] == [b"3", b"4"]
    backlog.add(record(b"6", value=b"x" * 2_000))
    assert len(list(backlog.take_all())) == 1


def test_events_of_a_record_are_counted() -> None:
    """Dropped events are counted singly, not by record; a worker's own event counts as one."""
    assert count_events(encode(payload([EVENT, EVENT, EVENT]))) == 3
    assert count_events(encode(payload({"type": "worker-online"}))) == 1


def test_control_queues_are_told_from_task_queues() -> None:
    """By the names that Celery gives them; no name of an SQS FIFO queue is one."""
    assert is_control_queue("celery@host.celery.pidbox")
    assert is_control_queue("c0ffee.reply.celery.pidbox")
    assert is_control_queue("celeryev.c0ffee")
    assert not is_control_queue("orders-tasks.fifo")
    assert not is_control_queue("celeryev-tasks.fifo")
