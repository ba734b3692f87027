"""A table that refuses what a partition key cannot take: nothing is lost, and only what needs it waits."""

import contextlib
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from benchmarks.limits import World, run, stage_done
from pipeline.errors import ServiceUnavailableError
from pipeline.jobs import JobState, NewJob, PartDone, PartRef
from pipeline.jobs.keys import FAN_OUT
from pipeline.ledger import EmittedTask, Ledger
from pipeline.patience import LONGEST_PAUSE, Patience
from pipeline.worker.cancelled import CancelledJobs
from tests import builders
from tests.fakes.limits import Clock
from tests.fakes.throttled import ThrottledDynamoDB
from tests.processes import wait_until
from tests.unit import test_delivery

PUT: Any = {"ConditionExpression": "attribute_not_exists(#0)", "ExpressionAttributeNames": {"#0": "x"}}


class Pauses(threading.Event):
    """The pauses of a patience: its clock jumps instead."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        self._clock.jump(timeout)
        return False


class Patient:
    """A ledger that waits for a table: nobody sleeps, and no pause is shortened by jitter."""

    def __init__(self, patch: pytest.MonkeyPatch, *, writes: float = 100, reads: float = 1e9) -> None:
        self.world = World(writes, reads)
        self.clock, self.store = self.world.clock, self.world.store
        self.pauses = Pauses(self.clock)
        longest = SimpleNamespace(uniform=lambda _least, most: most)
        for module in ("pipeline.patience", "pipeline.jobs.table"):
            patch.setattr(f"{module}.random", longest)
        patch.setattr("pipeline.jobs.table.time", SimpleNamespace(sleep=self.clock.jump))
        patience = Patience()
        patience._stop = self.pauses
        producer: Any = SimpleNamespace(emit=lambda records, _timeout: [None] * len(records))
        self.ledger = Ledger(builders.settings(), self.store, producer, patience)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Patient:
    return Patient(monkeypatch)


def _item(pk: str, size: int = 1, **more: str) -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": "-"}, "data": {"S": "x" * size}} | {
        name: {"S": value} for name, value in more.items()
    }


def _part(ordinal: int, split: str = "split") -> PartRef:
    return PartRef(job_id="j", stage="s", split_id=split, ordinal=ordinal, total=10_000)


# ─── The table itself ───


def test_a_key_takes_its_units_and_those_of_the_next_second() -> None:
    """Each started kilobyte counts; another key is another partition."""
    clock = Clock()
    table = ThrottledDynamoDB(clock, writes=4)
    table.put_item(Item=_item("a", 3_000), **PUT)
    table.put_item(Item=_item("a", 3_000), **PUT)
    with pytest.raises(ClientError, match="ThrottlingException"):
        table.put_item(Item=_item("a"), **PUT)
    table.put_item(Item=_item("b"), **PUT)
    clock.jump(0.6)
    table.put_item(Item=_item("a"), **PUT)
    assert table.throttled == {"a": 1}


@pytest.mark.parametrize("index", ["ipk", "epk"])
def test_an_index_that_is_full_refuses_the_write_to_the_table(index: str) -> None:
    """Nothing is written of it; an item that is not in the index is."""
    table = ThrottledDynamoDB(Clock(), writes=1)
    table.put_item(Item={**_item("a", isk="1"), index: {"S": "open"}}, **PUT)
    with pytest.raises(ClientError, match="open"):
        table.put_item(Item={**_item("b", isk="2"), index: {"S": "open"}}, **PUT)
    assert ("b", "-") not in table.items
    table.put_item(Item=_item("b"), **PUT)


def test_of_a_batch_only_what_has_units_is_done() -> None:
    """The rest comes back as unprocessed; a request of which nothing is done is refused."""
    table = ThrottledDynamoDB(Clock(), writes=1, reads=1)
    puts = [{"PutRequest": {"Item": _item(pk)}} for pk in "abc"]
    assert table.batch_write_item(RequestItems={"t": puts[:2]}) == {"UnprocessedItems": {}}
    assert table.batch_write_item(RequestItems={"t": puts}) == {"UnprocessedItems": {"t": puts[:2]}}
    with pytest.raises(ClientError):
        table.batch_write_item(RequestItems={"t": puts})
    keys = [{"pk": {"S": pk}, "sk": {"S": "-"}} for pk in "ab"]
    asked = {"Keys": keys[:1], "ConsistentRead": True}
    assert not table.batch_get_item(RequestItems={"t": asked})["UnprocessedKeys"]
    answer = table.batch_get_item(RequestItems={"t": {**asked, "Keys": keys}})
    assert answer["UnprocessedKeys"] == {"t": asked}
    assert answer["Responses"] == {"t": [_item("b")]}


# ─── What waits, and what does not ───


def test_refused_writes_are_tried_again_after_longer_pauses_and_none_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More jobs at once than the shards of the index take in a second."""
    patient = Patient(monkeypatch, writes=10)
    began = patient.clock()
    jobs = patient.world.new_jobs(400)
    opened = patient.ledger.open(jobs)
    assert opened.errors == [None] * 400
    found = patient.store.records.get_now([job.job_id for job in jobs])
    assert [found[job.job_id].state for job in jobs] == [JobState.RUNNING] * 400
    assert patient.pauses.seconds[:3] == [0.1, 0.2, 0.4]
    assert max(patient.pauses.seconds) <= LONGEST_PAUSE
    assert patient.clock() - began > 1


def test_unprocessed_items_are_written_in_the_end(patient: Patient) -> None:
    """Stages of one job, three times what its key takes in a second."""
    (job_id,) = patient.world.open(1)
    done = [stage_done(patient.world, job_id, f"s{n}") for n in range(300)]
    recorded = patient.ledger.record([EmittedTask(done=each) for each in done])
    assert recorded.errors == [None] * 300
    assert sum(sk.startswith("S#") for _, sk in patient.world.table.items) == 300
    assert patient.world.table.throttled.keys() == {f"limits/J#{job_id}"}


def test_a_full_leaf_of_a_counter_refuses_its_own_parts_only(patient: Patient) -> None:
    """In one batch parts of another leaf, of another split and other jobs' stages are recorded."""
    world = patient.world
    (job_id,) = world.open(1)
    hot, other, apart = PartDone(ref=_part(0)), PartDone(ref=_part(FAN_OUT)), PartDone(ref=_part(0, "b"))
    for _ in range(100):
        assert world.store.tasks.record([hot]).errors == [None]
    errors = world.store.tasks.record([hot, other, apart, stage_done(world, job_id, "first")]).errors
    assert isinstance(errors[0], ServiceUnavailableError)
    assert errors[1:] == [None] * 3


def test_a_full_shard_of_the_index_refuses_its_own_jobs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no record, the others of the batch do."""
    world = Patient(monkeypatch, writes=5).world
    jobs, more = world.new_jobs(60), world.new_jobs(400)
    shards = _shards(jobs + more)
    full = shards[jobs[0].job_id]
    for job in [job for job in more if shards[job.job_id] == full][:5]:
        assert world.store.records.open([job]).errors == [None]
    one_of_each = {shards[job.job_id]: job for job in jobs}
    errors = dict(zip(one_of_each, world.store.records.open([*one_of_each.values()]).errors, strict=True))
    assert [shard for shard, error in errors.items() if error is not None] == [full]
    assert isinstance(errors[full], ServiceUnavailableError)
    opened = world.store.records.get_now([job.job_id for job in one_of_each.values()])
    assert {shards[job_id] for job_id in opened} == one_of_each.keys() - {full}


def _shards(jobs: list[NewJob]) -> dict[str, str]:
    """The partition of the index of each job."""
    world = World(1e9, 1e9)
    world.store.records.open(jobs)
    return {job.job_id: world.table.items[f"limits/J#{job.job_id}", "META"]["ipk"]["S"] for job in jobs}


def test_a_full_list_of_cancelled_jobs_delays_cancels_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel that is tried again ends on the list; jobs are opened meanwhile."""
    patient = Patient(monkeypatch, writes=5)
    world = patient.world
    job_ids = [job_id for _ in range(20) for job_id in _open_later(world)]
    began = world.clock()
    for job_id in job_ids:
        job = patient.ledger.cancel(job_id)
        assert job is not None
        assert job.state is JobState.CANCELLED
    assert world.clock() - began > 2
    assert "limits/C" in world.table.throttled
    assert world.store.cancelled_since(0) == set(job_ids)


def _open_later(world: World) -> list[str]:
    world.clock.jump(1.0)
    return world.open(1)


def test_a_list_of_cancelled_jobs_that_cannot_be_read_stays_as_it_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tasks are recorded meanwhile, and the next read finds what was added."""
    world = Patient(monkeypatch, writes=1e9, reads=3).world
    monkeypatch.setattr("pipeline.worker.cancelled.time", SimpleNamespace(time=world.clock))
    first, second = world.open(2)
    world.store.cancel(first)
    cancelled = CancelledJobs(world.store)
    cancelled.read()
    while not world.table.throttled:
        with contextlib.suppress(ServiceUnavailableError):
            world.store.cancelled_since(0)
    world.store.cancel(second)
    cancelled.read()
    assert first in cancelled
    assert second not in cancelled
    assert world.store.tasks.record([stage_done(world, second, "first")]).errors == [None]
    world.clock.jump(2.0)
    cancelled.read()
    assert second in cancelled


def test_the_benchmark_finds_the_rate_of_each_limit() -> None:
    """A key takes so many writes a second; a job of three stages has two in its shard of the open jobs."""
    rows = {row["of"]: row for row in run(writes=20, reads=60)}
    assert 17 <= rows["parts of one split"]["passed_per_second"] <= 20
    assert 17 <= rows["jobs that are cancelled"]["passed_per_second"] <= 20
    assert rows["jobs of 3 stages"]["refused_key"].startswith("open#")
    assert rows["jobs of 3 stages"]["passed_per_second"] > 20
    assert {row["later_stages_recorded"] for row in rows.values()} == {"100 of 100"}


def test_tasks_of_later_stages_are_sent_while_first_events_wait_for_their_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock stands, so that the index takes no more jobs; once it goes on, none of them is lost."""
    monkeypatch.setattr("pipeline.patience.LONGEST_PAUSE", 0.001)
    throttled = World(writes=1, reads=1e9)
    bridge = test_delivery.World(test_delivery.FakeQueue())
    bridge.delivery._ledger._store = throttled.store
    try:
        jobs = throttled.new_jobs(60)
        for number, job in enumerate(jobs):
            bridge.put(number, f"first-{number}", job=job)
        for number in range(60, 80):
            bridge.put(number, f"later-{number}")
        taken = bridge.queue.taken
        wait_until(lambda: sum(each.group_id.startswith("later") for each in taken) == 20, "they are sent")
        wait_until(lambda: throttled.table.throttled, "a job waits")
        assert bridge.settled() < 60

        def all_settled() -> bool:
            throttled.clock.jump(1.0)
            return bridge.settled() == 80

        wait_until(all_settled, "all are sent")
        assert len({each.group_id for each in taken}) == len(taken) == 80
        assert len(throttled.store.records.get_now([job.job_id for job in jobs])) == 60
    finally:
        bridge.delivery.close()
