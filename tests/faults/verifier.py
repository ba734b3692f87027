"""The verifier: the invariants between input and outcome.

It knows the load's stages and the promises; nothing of how they are kept. It imports nothing of the engine.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tests.faults.load import Input
from tests.faults.outcome import Outcome, Read

Kind = Literal[
    "lost",  # an acknowledged event without its effects
    "order",  # out of order within a group
    "count",  # a part not counted, or more than once
    "closed",  # a job not closed, or not with one event
    "effect",  # not exactly one later event
    "stuck",  # a job that runs on with nothing under way
    "left",  # something left on a topic or queue
    "innocent",  # a dead letter of a correct task
    "unseen",  # a failure that nobody can see
    "rerun",  # user code ran more often than the fault explains
]


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A violated invariant."""

    kind: Kind
    #: The input, topic or queue that it concerns.
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.about}: {self.text}"


#: The topics an input's events appear on after it, and the stages that make them.
PATHS: Mapping[str, Sequence[tuple[str, str]]] = {
    "arrivals": [("admit", "admitted")],
    "parcels": [("weigh", "weighed"), ("ship", "shipped")],
    "crates": [("count_crate", "counted")],
}
#: The topics that a service writes for others: results of stages, ends of jobs, failures.
WRITTEN = ("admitted", "weighed", "shipped", "counted", "jobs", "errors", "dlq")
CONSUMED = ("arrivals", "parcels", "weighed", "crates")


def verify(inputs: Sequence[Input], outcome: Outcome, *, runs: int | None = None) -> list[Violation]:
    """Return all violations. ``runs``: how often user code may run each task at most."""
    seen = _Seen(inputs, outcome)
    checks: list[Iterator[Violation]] = [_left(outcome), _innocent(seen), _order(seen), _open(outcome)]
    for each in inputs:
        if each.fate in ("complete", "mended"):
            checks += [_downstream(each, seen), _effects(each, seen, runs), _closed(each, seen)]
            checks += [_parts(each, seen)] if each.topic == "crates" else []
        elif each.fate == "failed":
            checks.append(_failed(each, seen))
        else:
            checks.append(_rejected(each, seen))
    return [violation for check in checks for violation in check]


class _Seen:
    """The outcome, arranged by job and by key."""

    def __init__(self, inputs: Sequence[Input], outcome: Outcome) -> None:
        self.outcome = outcome
        self.inputs = {each.job_id: each for each in inputs}
        #: Dead letters with their bodies, without the escapes of JSON within JSON.
        self.letters = [(letter["Body"].replace("\\", ""), letter) for letter in outcome.letters]
        #: By topic and job.
        self.events: dict[tuple[str, str], list[Read]] = defaultdict(list)
        for topic, records in outcome.records.items():
            for record in records:
                self.events[topic, record.job_id].append(record)
        #: By stage and key.
        self.effects: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
        for line in outcome.effects:
            self.effects[line["stage"], line["key"]].append(line)
        self.metas = {
            pk.partition("/J#")[2]: item for (pk, sk), item in outcome.items.items() if sk == "META"
        }
        self.seals = {
            pk.partition("/J#")[2]: item for (pk, sk), item in outcome.items.items() if sk.startswith("P#")
        }
        #: The leaves of each split's counter, by the split's id.
        self.leaves: dict[str, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
        self.tops: dict[str, Mapping[str, Any]] = {}
        for (pk, _), item in outcome.items.items():
            if "/L#" in pk:
                split, *place = pk.partition("/L#")[2].split("#")
                if place == ["top"]:
                    self.tops[split] = item
                elif place[0] == "0":
                    self.leaves[split].append((int(place[1]), item))


# ─── Nothing is left ───


def _left(outcome: Outcome) -> Iterator[Violation]:
    names = ("available", "in flight", "delayed")
    for name, count in zip(names, outcome.depth, strict=True):
        if count:
            yield Violation(kind="left", about="task queue", text=f"{count} {name}")
    for topic, lag in outcome.lag.items():
        if lag:
            yield Violation(kind="left", about=topic, text=f"{lag} events are not committed")


def _open(outcome: Outcome) -> Iterator[Violation]:
    for (pk, sk), item in outcome.items.items():
        if sk == "META" and (item["state"] == "running" or "/open#" in item.get("ipk", "")):
            yield Violation(kind="stuck", about=pk, text=f"{item['state']}, done {item.get('done')}")


# ─── What completes ───


def _expected(each: Input, topic: str) -> dict[str, Any]:
    data: dict[str, Any] = {"key": each.key, "entity": each.entity, "seq": each.seq}
    if topic == "counted":
        data |= {"parts": each.parts, "total": sum(range(each.parts))}
    return data


def _downstream(each: Input, seen: _Seen) -> Iterator[Violation]:
    """Check for one event of each stage, by id, with the right data."""
    for _, topic in PATHS[each.topic]:
        events = seen.events[topic, each.job_id]
        if not events:
            yield Violation(kind="lost", about=each.key, text=f"no event on {topic}")
            continue
        if len({event.event_id for event in events}) > 1:
            yield Violation(kind="effect", about=each.key, text=f"several events on {topic}")
        for event in events:
            wrong = {k: v for k, v in _expected(each, topic).items() if event.data[k] != v}
            if wrong:
                kind: Kind = "count" if topic == "counted" else "effect"
                yield Violation(kind=kind, about=each.key, text=f"{topic} has {event.data}")


def _effects(each: Input, seen: _Seen, runs: int | None) -> Iterator[Violation]:
    for stage, _ in PATHS[each.topic]:
        lines = seen.effects[stage, each.key]
        ended = {line["part"] for line in lines if line["what"] == "end"}
        wanted = set(range(each.parts)) if each.topic == "crates" else {None}
        if missing := wanted - ended:
            yield Violation(
                kind="lost", about=each.key, text=f"{stage} never ended: {sorted(missing, key=str)}"
            )
        if runs is None:
            continue
        for part in ended:
            times = sum(line["part"] == part and line["what"] == "start" for line in lines)
            if times > runs:
                yield Violation(kind="rerun", about=each.key, text=f"{stage} {part} ran {times} times")


def _closed(each: Input, seen: _Seen) -> Iterator[Violation]:
    ends = seen.events["jobs", each.job_id]
    ids = {event.event_id for event in ends}
    if len(ids) != 1:
        yield Violation(kind="closed", about=each.key, text=f"{len(ids)} ids of job-complete events")
    meta = seen.metas.get(each.job_id)
    if meta is None:
        yield Violation(kind="lost", about=each.key, text="the job has no record")
    elif meta["state"] != "complete" or "closed_at" not in meta:
        yield Violation(kind="closed", about=each.key, text=f"the job is {meta['state']}")


def _parts(each: Input, seen: _Seen) -> Iterator[Violation]:
    """Check that the counter's set is exactly the parts, and the split is closed."""
    seal = seen.seals.get(each.job_id)
    if seal is None or int(seal["n"]) != each.parts:
        yield Violation(kind="count", about=each.key, text=f"sealed with {seal and seal['n']} parts")
        return
    if each.parts == 0:
        return
    split = seal["split"]
    top = seen.tops.get(split, {})
    leaves = seen.leaves[split] or [(0, top)]
    counted = [leaf * 256 + int(offset) for leaf, item in leaves for offset in item.get("d", ())]
    if sorted(counted) != list(range(each.parts)):
        missing = sorted(set(range(each.parts)).symmetric_difference(counted))
        yield Violation(kind="count", about=each.key, text=f"counted wrongly: {missing[:20]}")
    if "closed_at" not in top:
        yield Violation(kind="closed", about=each.key, text="the split is not closed")
    gathers = {line["pid"] for line in seen.effects["count_crate", each.key] if line["what"] == "gather"}
    if not gathers:
        yield Violation(kind="lost", about=each.key, text="never gathered")


# ─── Order ───


def _order(seen: _Seen) -> Iterator[Violation]:
    yield from _runs_in_order(seen)
    known: set[str] = set()
    first = []
    for record in seen.outcome.records["admitted"]:
        if record.event_id not in known and record.job_id in seen.inputs:
            first.append((record.data["entity"], record.data["seq"], f"event of {record.data['key']}"))
        known.add(record.event_id)
    yield from _never_back(first)


def _runs_in_order(seen: _Seen) -> Iterator[Violation]:
    """Check that each run starts after those before it ended, and that what runs again does so in order.

    A crash may take an entity back to an earlier run; from there on it leaves none out.
    """
    line_up = _line_up(seen)
    ended: set[str] = set()
    latest: dict[str, int] = {}
    for line in seen.outcome.effects:
        each = seen.inputs.get(f"job-{line['key']}")
        if line["stage"] != "admit" or each is None:
            continue
        if line["what"] == "end":
            ended.add(each.key)
        elif line["what"] == "start":
            before = [x.key for x in line_up[each.entity] if x.seq < each.seq]
            last = latest.get(each.entity, each.seq)
            left_out = [x.key for x in line_up[each.entity] if last < x.seq < each.seq]
            if waits := [key for key in before if key not in ended]:
                text = f"run of {each.key} ({each.seq}) before the end of {waits}"
                yield Violation(kind="order", about=each.entity, text=text)
            if left_out:
                text = f"run of {each.key} ({each.seq}) after {last}, without {left_out}"
                yield Violation(kind="order", about=each.entity, text=text)
            latest[each.entity] = each.seq


def _line_up(seen: _Seen) -> Mapping[str, Sequence[Input]]:
    """Return by entity the inputs that the next ones wait for; those that fail for good let others pass."""
    line_up: defaultdict[str, list[Input]] = defaultdict(list)
    for each in seen.inputs.values():
        if each.topic == "arrivals" and each.fate == "complete":
            line_up[each.entity].append(each)
    return line_up


def _never_back(steps: Iterable[tuple[str, int, str]]) -> Iterator[Violation]:
    newest: dict[str, int] = {}
    for entity, seq, what in steps:
        if seq < newest.get(entity, -1):
            yield Violation(kind="order", about=entity, text=f"{what} ({seq}) after {newest[entity]}")
        newest[entity] = max(seq, newest.get(entity, -1))


# ─── What does not complete ───


def _innocent(seen: _Seen) -> Iterator[Violation]:
    guilty = [each for each in seen.inputs.values() if each.fate != "complete"]
    for body, letter in seen.letters:
        if _mentions(body, seen.inputs.values()) and not _mentions(body, guilty):
            yield Violation(kind="innocent", about=letter["MessageId"], text=_reason(letter))
    for topic in ("errors", "dlq"):
        for record in seen.outcome.records[topic]:
            each = seen.inputs.get(record.job_id)
            if each is not None and each.fate == "complete":
                text = (record.value or b"").decode(errors="replace")[:300]
                yield Violation(kind="innocent", about=each.key, text=f"on {topic}: {text}")


def _mentions(body: str, inputs: Iterable[Input]) -> bool:
    return any(f'"{each.key}"' in body for each in inputs)


def _reason(letter: Mapping[str, Any]) -> str:
    attributes = letter.get("MessageAttributes", {})
    return str({name: each.get("StringValue", "")[:200] for name, each in attributes.items()})


def _failed(each: Input, seen: _Seen) -> Iterator[Violation]:
    """Check the errors topic, the dead-letter queue, the job's record, and that its end is announced once."""
    errors = [record.data["kind"] for record in seen.events["errors", each.job_id]]
    if "task" not in errors:
        yield Violation(kind="unseen", about=each.key, text="no error event of the task")
    if not any(_mentions(body, [each]) for body, _ in seen.letters):
        yield Violation(kind="unseen", about=each.key, text="no dead letter")
    yield from _ended_failed(each, seen)


def _ended_failed(each: Input, seen: _Seen) -> Iterator[Violation]:
    ids = {r.event_id for r in seen.events["errors", each.job_id] if r.data["kind"] == "job"}
    if len(ids) != 1:
        yield Violation(kind="closed", about=each.key, text=f"{len(ids)} ids of job-failed events")
    if seen.events["jobs", each.job_id]:
        yield Violation(kind="closed", about=each.key, text="a failed job is announced as complete")
    state = seen.metas.get(each.job_id, {}).get("state")
    if state != "failed":
        yield Violation(kind="unseen", about=each.key, text=f"the job is {state}")


def _as_kept(headers: Iterable[tuple[str, bytes]]) -> set[tuple[str, bytes]]:
    """Return an event's headers as its dead letter has them: those under the project's names are renamed."""
    return {
        (f"own_{name}" if name.startswith("dlq_") or name == "redrive" else name, value)
        for name, value in headers
    }


def _rejected(each: Input, seen: _Seen) -> Iterator[Violation]:
    """Check that it is on the DLQ topic unchanged, with all its headers, and on the errors topic."""
    kept = [
        record
        for record in seen.outcome.records["dlq"]
        if record.value == each.value
        and record.key == each.record_key
        and _as_kept(each.headers) <= set(record.headers.items())
    ]
    if not kept:
        yield Violation(kind="unseen", about=each.key, text="not on the DLQ topic as it was")
    told = [
        record
        for record in seen.outcome.records["errors"]
        if record.data["kind"] == "event" and record.data["entity_id"] == each.record_key.decode()
    ]
    if not told:
        yield Violation(kind="unseen", about=each.key, text="no error event")
