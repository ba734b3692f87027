"""Stages without a queue, under any failures and crashes: only events that are over are committed.

The real bridge's parts around fakes of the wires: Kafka, DynamoDB and the children. A process dies before or
after any step outside; the next one begins at what was committed, with what the table has.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.outbox import entries_of
from pipeline.bridge.rejects import Rejects
from pipeline.bridge.translator import Translator
from pipeline.inline.delivery import InlineDelivery
from pipeline.inline.runqueue import RunQueue
from pipeline.inline.runtime import InlineRuntime
from pipeline.jobs import JobState, JobStore, ref_of, split_ref
from pipeline.jobs.table import Table
from pipeline.kafka import OutgoingRecord, Partition, ReceivedRecord
from pipeline.patience import Patience
from pipeline.transport.lease import Lease
from pipeline.wire import events, identity
from pipeline.wire.events import Event
from pipeline.wire.taskmessage import TaskHeader, data_of, sealed_header
from pipeline.worker.child.outcome import Failed, Outcome, Succeeded
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

P = Partition("inbox", 0)
RETRIES = 2
SETTINGS = builders.settings(service_name="post", max_retries=RETRIES, retry_delay=0)


def _registry(*, ordered: bool) -> Registry:
    """``ordered``: whether the parts of a split run in their order."""
    registry = Registry()

    @stage(consumes="inbox", emits="copied", ordered=True, registry=registry)
    def copy(letter: dict[str, Any]) -> dict[str, Any]:
        return letter

    @stage(consumes="inbox", emits="counted", tolerate=0.4, ordered=ordered, registry=registry)
    def count(word: str) -> int:
        return len(word)

    @count.split
    def words(letter: dict[str, Any]) -> list[str]:
        return list(letter["words"])

    @count.gather
    def total(letter: dict[str, Any], counts: Iterable[int]) -> dict[str, Any]:
        return {"key": letter["key"], "total": sum(counts)}

    return registry


REGISTRIES = {ordered: _registry(ordered=ordered) for ordered in (False, True)}


class Death(BaseException):
    """The process ended here."""


@dataclass
class World:
    """The state that outlives a process."""

    #: Failing attempts of each task, by the event's key and the task's role or ordinal.
    failing: dict[tuple[str, str], int]
    #: After how many steps each process dies, and whether before or after the step.
    deaths: list[tuple[int, bool]]
    registry: Registry
    log: list[OutgoingRecord] = field(default_factory=list)
    committed: int = 0
    wire: FakeDynamoDB = field(default_factory=FakeDynamoDB)
    #: The records that Kafka acknowledged, by topic.
    topics: dict[str, list[OutgoingRecord]] = field(default_factory=dict)
    #: Steps left to the process that runs.
    left: int | None = None
    after: bool = False
    #: Every run: its event's key, the task, and whether it went well.
    runs: list[tuple[str, str, bool]] = field(default_factory=list)

    def step(self, do: Callable[[], Any]) -> Any:
        """A step outside of the process."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0 and not self.after:
                raise Death
        answer = do()
        if self.left is not None and self.left < 0:
            raise Death
        return answer

    def emit(self, records: Sequence[OutgoingRecord], timeout: float) -> list[None]:
        def do() -> list[None]:
            for record in records:
                self.topics.setdefault(record.topic, []).append(record)
            return [None] * len(records)

        answer: list[None] = self.step(do)
        return answer

    def keys(self, topic: str) -> list[str]:
        """Return the keys of a topic's events, in order, each once."""
        found = [json.loads(record.value or b"{}").get("key", "") for record in self.topics.get(topic, ())]
        return list(dict.fromkeys(found))


class Wire:
    """DynamoDB, each write of it a step."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._world.wire, name)
        if name in ("query", "get_item", "batch_get_item"):
            return method
        return lambda **request: self._world.step(lambda: method(**request))


class Children:
    """Run stages here, as children would; fail where the world says so."""

    processes = 2

    def __init__(self, world: World, store: JobStore) -> None:
        self._world = world
        self._store = store

    def end(self) -> None:
        """Nothing to end."""

    def run(self, lease: Lease, traceparent: str | None) -> Callable[[], Outcome]:
        header = lease.header
        assert header
        data, attempt = data_of(lease.envelope.body if lease.envelope else ""), lease.attempts + 1
        return lambda: self._world.step(lambda: self._run(header, data, attempt))

    def _run(self, header: TaskHeader, data: str, attempt: int) -> Outcome:
        which = str(header.part.ordinal) if header.part else header.role
        resumption, ref = self._store.resumption, ref_of(header)
        is_done = resumption._is_done(ref, resumption._read([ref]))
        assert header.role == "split" or not is_done, "run again although it is recorded"
        fails = attempt <= self._world.failing.get((header.event_id, which), 0)
        self._world.runs.append((header.event_id, which, not fails))
        if fails:
            return Failed(error="E", message="as asked")
        return Succeeded(result=self._result(header, data), summary="", seconds=0.0)

    def _result(self, header: TaskHeader, data: str) -> str | None:
        stage = self._world.registry.by_name[header.stage]
        match header.role:
            case "run":
                return stage.run(data)
            case "part":
                return stage.run_part(data)
            case "split":
                layout = self._store.splits.unsealed(split_ref(header))
                if layout is not None:
                    parts = stage.run_split(data)
                    self._store.splits.seal(
                        split_ref(header), sealed_header(header, {}), data, parts, stage.tolerate, layout
                    )
                return None
        sealed = self._store.splits.sealed(split_ref(header))
        assert sealed
        missing = self._store.splits.missing(sealed)
        return stage.run_gather(data, self._store.splits.results(sealed.split, sealed.total, missing))


class Process:
    """One bridge from its start to its end."""

    def __init__(self, world: World) -> None:
        self._world = world
        wire: Any = Wire(world)
        store = JobStore(SETTINGS, table=Table("jobs", lambda: wire))
        producer: Any = world
        children: Any = Children(world, store)
        patience = Patience()
        self.store = store
        self._run_queue = RunQueue()
        runtime = InlineRuntime(SETTINGS, world.registry, store, producer, children, patience)
        plans = KnownPlans(world.registry.routes)
        rejects = Rejects(SETTINGS, plans, runtime.ledger)
        drain: Any = None  # nothing was ever sent to SQS
        self._delivery = InlineDelivery(runtime, self._run_queue, rejects, producer, drain, plans)
        self._tracker = self._delivery.tracker
        self._translator = Translator(SETTINGS, plans, plans.topics)

    def live(self) -> None:
        """Until all is over, or the death that the world has in mind."""
        self._tracker.assign([P])
        for offset in range(self._world.committed, len(self._world.log)):
            self._take(offset)
        while not self._tracker.wait_settled([P], 0):
            while self._run_queue._unopened._items:
                self._delivery._open(self._run_queue.take_unopened())
            self._delivery._handle(self._run_queue.take())
            self._commit()
        self._commit()

    def _take(self, offset: int) -> None:
        record = self._world.log[offset]
        ticket = self._tracker.take(P, offset)
        assert ticket
        message = ReceivedRecord(
            topic=record.topic,
            partition=0,
            offset=offset,
            timestamp_ms=int(datetime.now(UTC).timestamp() * 1000),
            key=record.key,
            value=record.value,
            headers=record.headers,
        )
        (content,) = self._translator.translate(message)
        for entry in entries_of(content, ticket, 1, "post", SETTINGS.task_queue):
            self._delivery.put(entry)

    def _commit(self) -> None:
        offsets = self._tracker.committable()
        self._tracker.committed(offsets)
        self._world.committed = offsets.get(P, self._world.committed)
        self._world.step(lambda: None)
        for record in self._world.log[: self._world.committed]:
            _assert_over(self._world, self.store, record)


def _event(number: int, entity: str, words: int) -> OutgoingRecord:
    data = {"key": f"e{number}", "words": ["x" * (n + 1) for n in range(words)]}
    key, value, headers = events.encode(
        Event(
            id=f"e{number}",
            source="test",
            type="inbox",
            time=datetime.now(UTC),
            entity_id=entity,
            data=json.dumps(data).encode(),
        )
    )
    return OutgoingRecord(topic="inbox", key=key, value=value, headers=headers)


def _dead(world: World, name: str) -> set[str]:
    """The events that are dead letters of a stage."""
    letters = world.topics.get("post-dlq", [])
    return {
        json.loads(letter.value or b"")["key"]
        for letter in letters
        if dict(letter.headers)["dlq_stage"] == name.encode()
    }


def _assert_over(world: World, store: JobStore, record: OutgoingRecord) -> None:
    """Nothing is left of an event: each stage emitted, or has its dead letter, and its job ended."""
    key = json.loads(record.value or b"")["key"]
    for name, topic in (("copy", "copied"), ("count", "counted")):
        assert key in world.keys(topic) or key in _dead(world, name), f"{key} of {name} is lost"
    job = store.records.get(identity.job_id("test", key))
    assert job is not None
    assert job.state is not JobState.RUNNING, f"the job of {key} hangs"
    if job.state is JobState.COMPLETE:
        assert job.job_id in str(world.topics["jobs"])


def _expected(world: World, key: str, words: int) -> tuple[bool, int | None]:
    """Whether ``copy`` ends well; the total that ``count`` emits, None for a dead letter."""

    def well(which: str) -> bool:
        return world.failing.get((key, which), 0) <= RETRIES

    parts = [n for n in range(words) if well(str(n))]
    counts = well("split") and well("gather") and words - len(parts) <= int(0.4 * words)
    return well("run"), sum(n + 1 for n in parts) if counts else None


ROLES = ("run", "split", "gather", "0", "1", "2", "3")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    ordered=st.booleans(),
    letters=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4)), min_size=1, max_size=4),
    copies=st.lists(st.integers(0, 3), max_size=2),
    failing=st.dictionaries(
        st.tuples(st.sampled_from(["e0", "e1", "e2", "e3"]), st.sampled_from(ROLES)),
        st.integers(1, RETRIES + 1),
        max_size=5,
    ),
    deaths=st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=4),
)
def test_committed_is_over(
    ordered: bool,
    letters: list[tuple[str, int]],
    copies: list[int],
    failing: dict[tuple[str, str], int],
    deaths: list[tuple[int, bool]],
) -> None:
    """Whatever fails and whoever dies when: each event comes to its end, in order, and before its commit."""
    world = World(failing=failing, deaths=deaths, registry=REGISTRIES[ordered])
    world.log = [_event(number, entity, words) for number, (entity, words) in enumerate(letters)]
    world.log += [world.log[number] for number in copies if number < len(letters)]
    for left, after in deaths:
        world.left, world.after = left, after
        try:
            Process(world).live()
        except Death:
            continue
    world.left = None
    Process(world).live()
    assert world.committed == len(world.log)
    _assert_ends(world, letters, died=bool(deaths))


def _assert_ends(world: World, letters: list[tuple[str, int]], *, died: bool) -> None:
    totals: dict[str, int] = {}
    for record in world.topics.get("counted", ()):
        event = json.loads(record.value or b"")
        assert totals.setdefault(event["key"], event["total"]) == event["total"], "two ends of one split"
    for number, (_, words) in enumerate(letters):
        key = f"e{number}"
        copied, total = _expected(world, key, words)
        if not died:
            # A death may count as an attempt of what ran then: what fails often is given up sooner.
            assert (key in world.keys("copied")) == copied
            assert totals.get(key) == total
        else:
            assert copied or key not in world.keys("copied")
            assert total is not None or key not in totals
    for task, times in Counter((key, which) for key, which, _ in world.runs).items():
        assert times <= RETRIES + 1 + len(world.deaths), f"{task} ran {times} times"
    for entity in "ab":
        own = [f"e{number}" for number, (of, _) in enumerate(letters) if of == entity]
        emitted = [key for key in world.keys("copied") if key in own]
        assert emitted == sorted(emitted), "out of order"
        if world.registry is REGISTRIES[True]:
            ended = [
                (key, which) for key, which, well in world.runs if well and key in own and which.isdigit()
            ]
            firsts = list(dict.fromkeys(ended))
            assert firsts == sorted(firsts), "parts out of order"
