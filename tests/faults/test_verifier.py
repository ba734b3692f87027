"""The verifier itself: it accepts a correct outcome, and names each violation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.load import Input
from tests.faults.outcome import Outcome, Read
from tests.faults.verifier import WRITTEN, verify

PARTS = 3


def test_what_is_right_is_accepted() -> None:
    """Three of an ordered entity, one of two hops, one split, one failure, one reject: no violation."""
    assert verify(INPUTS, right(), runs=1) == []


def test_a_repeated_event_is_one_event() -> None:
    """An event written twice with one id counts once: a consumer drops the second."""
    outcome = right()
    outcome.records["admitted"].append(replace(outcome.records["admitted"][0], offset=99))
    outcome.records["jobs"].append(replace(outcome.records["jobs"][0], offset=99))
    assert verify(INPUTS, outcome) == []


def test_a_tail_that_runs_again_in_order_is_accepted() -> None:
    """A worker was killed before it recorded what it had run of an entity."""
    outcome = right()
    outcome.effects.extend(outcome.effects[:6])
    assert verify(INPUTS, outcome) == []


WRONG: dict[str, tuple[str, Callable[[Outcome], Any]]] = {
    "an event without its effect": ("lost", lambda o: o.records["shipped"].clear()),
    "a run that never ended": ("lost", lambda o: o.effects.remove(line(o, "weigh", "end"))),
    "a job without a record": ("lost", lambda o: o.items.pop(meta("p0"))),
    "a run before the end of the one before": ("order", lambda o: o.effects.remove(line(o, "admit", "end"))),
    "a tail run again with a gap": ("order", lambda o: o.effects.extend([o.effects[0], o.effects[4]])),
    "events out of order": ("order", lambda o: o.records["admitted"].reverse()),
    "a part counted twice": ("count", lambda o: miscount(o)),
    "a part not counted": ("count", lambda o: o.items[top()]["d"].discard(1)),
    "another number of parts": ("count", lambda o: o.items[seal()].update(n=PARTS + 1)),
    "closed twice": ("closed", lambda o: o.records["jobs"].append(replace(o.records["jobs"][0], **other()))),
    "never closed": ("closed", lambda o: o.records["jobs"].pop()),
    "a record that says otherwise": ("closed", lambda o: o.items[meta("p0")].update(state="failed")),
    "two effects": (
        "effect",
        lambda o: o.records["weighed"].append(replace(o.records["weighed"][0], **other("p0"))),
    ),
    "a job that runs on": ("stuck", lambda o: o.items[meta("p0")].update(state="running")),
    "a failure announced as complete": ("closed", lambda o: o.records["jobs"].append(end("f0"))),
    "a failure nobody sees": ("unseen", lambda o: o.letters.clear()),
    "a failure without an event": ("unseen", lambda o: o.records["errors"].pop(0)),
    "a reject that is not kept": ("unseen", lambda o: o.records["dlq"].clear()),
    "an innocent dead letter": ("innocent", lambda o: o.letters.append(letter("a1"))),
    "an innocent error event": ("innocent", lambda o: o.records["errors"].append(error("a1", "task"))),
    "a task that ran twice": ("rerun", lambda o: o.effects.append(line(o, "weigh", "start"))),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named(what: str) -> None:
    """Each single change of a correct outcome is reported under its name."""
    kind, change = WRONG[what]
    outcome = right()
    change(outcome)
    assert kind in {violation.kind for violation in verify(INPUTS, outcome, runs=1)}


def test_what_is_left_is_named() -> None:
    """Messages left on the queue and uncommitted events are reported."""
    assert [v.kind for v in verify(INPUTS, replace(right(), depth=(0, 1, 0)))] == ["left"]
    assert [v.kind for v in verify(INPUTS, replace(right(), lag={"arrivals": 1}))] == ["left"]


# ─── What is right ───


def _input(key: str, topic: str, seq: int = 0, **more: Any) -> Input:
    return Input(
        key=key,
        job_id=f"job-{key}",
        topic=topic,
        entity=f"entity-{key[0]}",
        seq=seq,
        record_key=f"entity-{key[0]}".encode(),
        value=b"{}",
        headers=(("ce_id", key.encode()),),
        **more,
    )


INPUTS = [
    _input("a0", "arrivals", 0),
    _input("a1", "arrivals", 1),
    _input("a2", "arrivals", 2),
    _input("p0", "parcels"),
    _input("c0", "crates", parts=PARTS),
    _input("f0", "arrivals", fate="failed"),
    _input("r0", "arrivals", fate="rejected"),
]


def right() -> Outcome:
    """Return the correct outcome of ``INPUTS``."""
    records: dict[str, list[Read]] = {topic: [] for topic in WRITTEN}
    for key, topic in (
        ("a0", "admitted"),
        ("a1", "admitted"),
        ("a2", "admitted"),
        ("p0", "weighed"),
        ("p0", "shipped"),
    ):
        records[topic].append(event(topic, key))
    records["counted"] = [event("counted", "c0")]
    records["jobs"] = [end(key) for key in ("a0", "a1", "a2", "p0", "c0")]
    records["errors"] = [error("f0", "task"), error("f0", "job"), error("r0", "event")]
    records["dlq"] = [replace(event("dlq", "r0"), key=b"entity-r", value=b"{}", headers={"ce_id": b"r0"})]
    items: dict[tuple[str, str], dict[str, Any]] = {
        meta(key): {"state": "complete", "closed_at": 1, "ipk": "s/complete#day#0"}
        for key in ("a0", "a1", "a2", "p0", "c0")
    }
    items[meta("f0")] = {"state": "failed", "ipk": "s/failed#day#0"}
    items[seal()] = {"n": PARTS, "split": "split-c0"}
    items[top()] = {"d": set(range(PARTS)), "closed_at": 1}
    effects: list[dict[str, Any]] = [
        {"stage": stage, "key": key, "part": part, "what": what, "pid": 1}
        for stage, key, part in (
            ("admit", "a0", None),
            ("admit", "a1", None),
            ("admit", "a2", None),
            ("weigh", "p0", None),
            ("ship", "p0", None),
            *(("count_crate", "c0", ordinal) for ordinal in range(PARTS)),
        )
        for what in ("start", "end")
    ]
    effects.append({"stage": "count_crate", "key": "c0", "part": None, "what": "gather", "pid": 1})
    return Outcome(
        records=records, letters=[letter("f0")], items=items, effects=effects, depth=(0, 0, 0), lag={}
    )


def event(topic: str, key: str) -> Read:
    """Return an event as a stage emits it."""
    each = next(each for each in INPUTS if each.key == key)
    data = f'"key": "{key}", "entity": "{each.entity}", "seq": {each.seq}'
    value = f'{{{data}, "parts": {each.parts}, "total": {sum(range(each.parts))}}}'.encode()
    return _read(topic, f"{topic}-{key}", key, value)


def end(key: str) -> Read:
    """A job's end."""
    return _read("jobs", f"end-{key}", key, b"{}")


def error(key: str, kind: str) -> Read:
    """An error event."""
    entity = f"entity-{key[0]}"
    value = f'{{"kind": "{kind}", "entity_id": "{entity}"}}'.encode()
    return _read("errors", f"error-{key}-{kind}", key, value)


def letter(key: str) -> dict[str, Any]:
    """Return a message as it is on the dead-letter queue."""
    return {"MessageId": f"letter-{key}", "Body": f'{{"body": "[[{{\\"key\\": \\"{key}\\"}}]]"}}'}


def meta(key: str) -> tuple[str, str]:
    """A job's record."""
    return f"s/J#job-{key}", "META"


def seal() -> tuple[str, str]:
    """The seal of the split."""
    return "s/J#job-c0", "P#count_crate"


def top() -> tuple[str, str]:
    """Its counter."""
    return "s/L#split-c0#top", "-"


def line(outcome: Outcome, stage: str, what: str) -> Any:
    """A line of a run."""
    return next(each for each in outcome.effects if each["stage"] == stage and each["what"] == what)


def other(key: str = "a0") -> dict[str, Any]:
    """Return headers that make a record another event of the same job."""
    return {"headers": {"ce_id": b"other", "ce_jobid": f"job-{key}".encode()}}


def miscount(outcome: Outcome) -> None:
    """Give the gather one part twice."""
    right_one = outcome.records["counted"][0]
    value = (right_one.value or b"").replace(b'"parts": 3', b'"parts": 4')
    outcome.records["counted"][0] = replace(right_one, value=value)


def _read(topic: str, event_id: str, key: str, value: bytes) -> Read:
    return Read(
        topic=topic,
        partition=0,
        offset=0,
        key=key.encode(),
        value=value,
        headers={"ce_id": event_id.encode(), "ce_jobid": f"job-{key}".encode()},
    )
