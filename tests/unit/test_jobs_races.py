"""Interleavings that once broke a design, played step by step on an in-memory wire."""

import pytest
from botocore.exceptions import EndpointConnectionError

from config.settings import Settings
from pipeline.errors import ServiceUnavailableError
from pipeline.jobs import (
    Failed,
    JobFailed,
    JobFilled,
    JobPlan,
    JobState,
    JobStore,
    NewJob,
    PartDone,
    PartRef,
    Ref,
    SplitFilled,
    SplitRef,
    StageDone,
    StageRef,
)
from tests.fakes.dynamodb import FakeDynamoDB
from tests.jobs_machine import small_tree
from tests.jobs_world import Moment, SequentialTable, Wire, Worker

A, B, C = (StageRef(job_id="j", stage=stage) for stage in "abc")
SPLIT = SplitRef(job_id="j", stage="b", split_id="s")
GATHER = StageRef(job_id="j", stage="b", gather=True)

#: Just before a worker's next update, or the one after.
NEXT_UPDATE = Moment("update_item", 0, "none")
UPDATE_AFTER = Moment("update_item", 1, "none")


@pytest.fixture(name="wire")
def wire_fixture(monkeypatch: pytest.MonkeyPatch) -> FakeDynamoDB:
    """An empty table, in whose counters a node has three children."""
    small_tree(monkeypatch)
    return FakeDynamoDB()


@pytest.fixture(name="store")
def store_fixture(wire: FakeDynamoDB) -> JobStore:
    """A store with one job: b and c follow a. In a Worker, it stops before each request."""
    settings = Settings(
        service_name="test",
        kafka_bootstrap_servers="none",
        kafka_consumer_group="test",
        sqs_task_queue_url="http://none/tasks.fifo",
        sqs_dlq_url="http://none/dlq.fifo",
    )
    table = SequentialTable("jobs", lambda: Wire(wire, lambda: None))  # type: ignore[arg-type,return-value]
    store = JobStore(settings, table=table, clock=lambda: 1_700_000_000.0)
    plan = JobPlan(stages={"a": ("b", "c"), "b": ("b",), "c": ("c",)})
    store.open_jobs([NewJob(job_id="j", entity_id="e", topic="t", plan=plan, submitted_at=1.0)])
    return store


def done(ref: StageRef) -> StageDone:
    """A stage's good end; a has followers."""
    return StageDone(ref=ref, task_id="t", ends_path=ref != A, run_seconds=0.1, finished_at=1.0, worker="w")


def failed(ref: Ref, generation: int = 0) -> Failed:
    """A dead letter."""
    return Failed(
        ref=ref, task_id="t", error="E", message="m", attempts=3, failed_at=1.0, generation=generation
    )


def part(ordinal: int, total: int = 5) -> PartRef:
    """A part of stage b."""
    return PartRef(job_id="j", stage="b", split_id="s", ordinal=ordinal, total=total)


def page(first: int) -> SplitRef:
    """The task that sends the parts of stage b from a page on."""
    return SplitRef(job_id="j", stage="b", split_id="s", page=first)


def state(store: JobStore) -> JobState:
    """The job's state."""
    job = store.job("j")
    assert job
    return job.state


@pytest.mark.parametrize("writes", [1, 2, 3], ids=["leaf told", "top told", "job told"])
def test_a_failure_on_its_way_up_does_not_undo_a_redrive(store: JobStore, writes: int) -> None:
    """A worker that stops after any write of a failure cannot fail a job that was redriven meanwhile."""
    store.record([PartDone(ref=part(ordinal)) for ordinal in range(4)])
    store.record([done(C)])
    slow = Worker(lambda: store.record_failed([failed(part(4))]))
    slow.advance(Moment("update_item", writes, "none"))
    store.record_failed([failed(part(4))])
    assert state(store) is JobState.FAILED
    assert store.redrive([(part(4), 0)]) == [True]
    slow.finish()
    assert state(store) is JobState.RUNNING
    assert store.recheck("j") == []


def test_each_failure_after_a_redrive_is_a_new_one(store: JobStore) -> None:
    """The job-failed event of a second failure has another id: the redrives are one more."""
    store.record([PartDone(ref=part(ordinal)) for ordinal in range(4)])
    store.record([done(C)])
    for generation in range(3):
        recorded = store.record_failed([failed(part(4), generation)])
        (closing,) = recorded.closings
        assert isinstance(closing, JobFailed)
        assert closing.job.redrives == generation
        assert store.redrive([(part(4), generation)]) == [True]
    (closing,) = store.record([PartDone(ref=part(4))]).closings
    assert isinstance(closing, SplitFilled)


def test_a_failure_that_comes_again_late_counts_for_nothing(store: JobStore) -> None:
    """A replayed record of a failure that was redriven leaves the job running."""
    store.record([done(C)])
    store.record_failed([failed(B)])
    store.redrive([(B, 0)])
    assert store.record_failed([failed(B)]).closings == []
    assert state(store) is JobState.RUNNING


@pytest.mark.parametrize(
    ("first", "later"),
    [(B, GATHER), (page(0), page(2)), (SPLIT, page(0))],
    ids=["event and gather", "two pages", "split and page"],
)
def test_the_redrive_of_a_task_hides_no_failure_of_another(store: JobStore, first: Ref, later: Ref) -> None:
    """Tasks of a stage fail each for itself: the first failure of one counts after the redrive of another."""
    store.record([done(C)])
    store.record_failed([failed(first)])
    assert store.redrive([(first, 0)]) == [True]
    (closing,) = store.record_failed([failed(later)]).closings
    assert isinstance(closing, JobFailed)
    assert store.redrive([(later, 0)]) == [True]
    assert state(store) is JobState.RUNNING


def test_a_job_has_failed_while_one_task_of_its_stage_has(store: JobStore) -> None:
    """Of two failed page tasks one is redriven: the other still fails the job, and says why."""
    store.record([done(C)])
    store.record_failed([failed(page(0)), failed(page(1))])
    assert store.redrive([(page(0), 0)]) == [True]
    assert [each.part for each in store.failures("j")] == ["page-1"]
    (closing,) = store.recheck("j")
    assert isinstance(closing, JobFailed)
    assert closing.job.failed == {"b"}


def test_a_replay_beside_a_redriven_part_leaves_the_job_running(store: JobStore) -> None:
    """While a redriven part runs, nothing that is recorded again in its leaf ends the job."""
    store.record([PartDone(ref=part(ordinal)) for ordinal in range(4)])
    store.record([done(C)])
    store.record_failed([failed(part(4))])
    store.redrive([(part(4), 0)])
    assert store.record([PartDone(ref=part(3))]).closings == []
    assert store.already_done([part(3)]).closings == []
    assert state(store) is JobState.RUNNING


def test_a_job_that_filled_meanwhile_is_not_failed(store: JobStore) -> None:
    """A worker that saw the job ended with a failure does not write so once its copy made it complete."""
    store.record([done(C)])
    slow = Worker(lambda: store.record_failed([failed(B)]))
    slow.advance(UPDATE_AFTER)
    (closing,) = store.record([done(B)]).closings
    assert isinstance(closing, JobFilled)
    slow.finish()
    assert state(store) is JobState.RUNNING
    assert store.close(closing)
    assert state(store) is JobState.COMPLETE


def test_a_job_that_was_redriven_meanwhile_is_not_failed(store: JobStore) -> None:
    """A worker that saw the job ended with a failure does not write so after its redrive."""
    store.record([done(C)])
    slow = Worker(lambda: store.record_failed([failed(B)]))
    slow.advance(UPDATE_AFTER)
    assert store.redrive([(B, 0)]) == [True]
    slow.finish()
    assert state(store) is JobState.RUNNING


def test_a_redrive_that_comes_too_late_does_not_open_a_complete_job(store: JobStore) -> None:
    """A person's redrive that began before the job completed leaves it complete, and says so."""
    store.record([done(C)])
    store.record_failed([failed(B)])
    answers: list[object] = []
    slow = Worker(lambda: answers.extend(store.redrive([(B, 0)])))
    slow.advance(NEXT_UPDATE)
    (closing,) = store.record([done(B)]).closings
    assert isinstance(closing, JobFilled)
    store.close(closing)
    slow.finish()
    assert state(store) is JobState.COMPLETE
    assert answers == [False]


def test_a_stage_that_is_done_did_not_fail(store: JobStore) -> None:
    """The dead letter of a copy fails no job whose stage went well: what follows it still runs."""
    store.record([done(A)])
    assert store.record_failed([failed(A)]).closings == []
    assert state(store) is JobState.RUNNING


def test_a_record_cut_short_is_finished_by_the_failure_of_its_copy(store: JobStore) -> None:
    """A worker dies after its stage's record and before the job's: the copy that fails tells the job."""
    store.record([done(C)])
    dying = Worker(lambda: store.record([done(B)]))
    dying.advance(Moment("update_item", 0, "die"))
    (closing,) = store.record_failed([failed(B)]).closings
    assert isinstance(closing, JobFilled)


@pytest.mark.parametrize("ref", [B, part(0, total=1)], ids=["stage", "part"])
def test_what_is_done_after_all_tells_no_failure(store: JobStore, ref: Ref) -> None:
    """A replay mended it: the redrive of its dead letter only removes that, and why it failed."""
    store.record_failed([failed(ref)])
    store.record([PartDone(ref=ref) if isinstance(ref, PartRef) else done(B)])
    assert store.redrive([(ref, 0)]) == [False]
    assert list(store.failures("j")) == []


def test_a_part_that_its_gather_went_on_without_still_tells_why(store: JobStore) -> None:
    """Its redrive comes too late, and the result lacks it for ever."""
    store.seal(SPLIT, "{}", "0", ["0", "1"], tolerate=0.5)
    store.record([PartDone(ref=part(0, total=2))])
    (closing,) = store.record_failed([failed(part(1, total=2))]).closings
    assert isinstance(closing, SplitFilled)
    assert store.close(closing)
    assert store.redrive([(part(1, total=2), 0)]) == [False]
    assert [each.part for each in store.failures("j")] == [1]


def test_a_redriven_task_that_was_done_leaves_no_job_running_for_ever(store: JobStore) -> None:
    """When nothing is left to run after a redrive, the recheck that follows it ends the job anew."""
    store.record_failed([failed(A)])
    slow = Worker(lambda: store.redrive([(A, 0)]))
    slow.advance(NEXT_UPDATE)
    store.record([done(A)])
    store.record_failed([failed(B), failed(C)])
    slow.finish()
    assert state(store) is JobState.RUNNING
    (closing,) = store.recheck("j")
    assert isinstance(closing, JobFailed)
    assert closing.job.redrives == 1


def test_whoever_records_the_last_failure_again_is_told_again(store: JobStore) -> None:
    """A worker that died before it announced the failed job is followed by one that does."""
    store.record([done(C)])
    first = store.record_failed([failed(B)]).closings
    assert [type(closing) for closing in first] == [JobFailed]
    assert store.record_failed([failed(B)]).closings == first


@pytest.mark.parametrize("ordinal", [0, 4])
def test_whoever_finds_the_last_part_done_closes_its_split(store: JobStore, ordinal: int) -> None:
    """A worker that died between recording the last part and the gather leaves it to the next delivery."""
    others = [PartDone(ref=part(each)) for each in range(5) if each != ordinal]
    store.record(others)
    dying = Worker(lambda: store.record([PartDone(ref=part(ordinal))]))
    dying.advance(Moment("update_item", 1, "die"))
    already = store.already_done([part(ordinal)])
    assert already.refs == {part(ordinal)}
    assert already.closings == [SplitFilled(split=SPLIT, total=5)]


def test_a_closed_split_is_not_closed_again(store: JobStore) -> None:
    """Once the gather is sent, neither a replay nor a check asks for it."""
    everything = [PartDone(ref=part(ordinal)) for ordinal in range(5)]
    (closing,) = store.record(everything).closings
    assert isinstance(closing, SplitFilled)
    assert store.close(closing)
    assert not store.close(closing)
    assert store.record(everything).closings == []
    assert store.already_done([part(0), SPLIT]).refs == {part(0), SPLIT}
    assert store.already_done([part(0), SPLIT]).closings == []


def test_two_runs_of_a_split_never_mix(store: JobStore) -> None:
    """The run that seals second adopts every part of the first, though its own pages are written later."""
    sealed: list[object] = []
    slow = Worker(lambda: sealed.append(store.seal(SPLIT, "{}", "0", (f'"slow {n}"' for n in range(7)))))
    slow.advance(Moment("batch_write_item", 0, "none"))
    winner = store.seal(SPLIT, "{}", "0", (f'"quick {n}"' for n in range(5)))
    slow.finish()
    assert sealed == [winner]
    assert dict(store.parts(winner)) == {n: f'"quick {n}"' for n in range(5)}


def test_one_refused_write_does_not_touch_the_other_outcomes(store: JobStore) -> None:
    """Each outcome is told whether it is recorded; only those of the refused write are not."""
    outcomes = [PartDone(ref=part(0)), PartDone(ref=part(3)), PartDone(ref=part(1)), PartDone(ref=part(4))]
    answers: list[list[object]] = []
    worker = Worker(lambda: answers.append(list(store.record(outcomes).errors)))
    worker.advance(Moment("update_item", 1, "refuse"))
    worker.finish()
    first, second, third, fourth = answers[0]
    assert first is None
    assert third is None
    assert isinstance(second, ServiceUnavailableError)
    assert isinstance(second.__cause__, EndpointConnectionError)
    assert fourth is second


@pytest.mark.parametrize("kind", ["batch_write_item", "update_item"])
def test_a_stage_whose_record_was_refused_is_told_so(store: JobStore, kind: str) -> None:
    """Neither the stage's own record nor the job's may be missing without an error."""
    answers: list[list[object]] = []
    worker = Worker(lambda: answers.append(list(store.record([done(B)]).errors)))
    worker.advance(Moment(kind, 0, "refuse"))
    worker.finish()
    assert isinstance(answers[0][0], ServiceUnavailableError)


def test_a_failure_that_was_not_recorded_is_told_so(store: JobStore) -> None:
    """Whichever write of a failure is refused, its message must come again."""
    for skip in range(3):
        answers: list[list[object]] = []
        worker = Worker(lambda answers=answers: answers.append(list(store.record_failed([failed(B)]).errors)))  # type: ignore[misc]
        worker.advance(Moment("any", skip, "refuse"))
        worker.finish()
        assert isinstance(answers[0][0], ServiceUnavailableError)


# ─── Cancelling ───


def test_a_job_that_filled_meanwhile_is_not_cancelled(store: JobStore) -> None:
    """A person's cancel that began before the last stage was done leaves the job to complete."""
    store.record([done(C)])
    slow = Worker(lambda: store.cancel("j"))
    slow.advance(NEXT_UPDATE)
    (closing,) = store.record([done(B)]).closings
    slow.finish()
    assert state(store) is JobState.RUNNING
    assert store.close(closing)  # type: ignore[arg-type]
    assert state(store) is JobState.COMPLETE
    assert store.cancelled_since(0) == set()


def test_a_job_that_was_cancelled_meanwhile_is_neither_failed_nor_complete(store: JobStore) -> None:
    """Workers that were about to end the job find it cancelled, and nothing is announced."""
    store.record([done(C)])
    answers: list[object] = []
    failing = Worker(lambda: answers.extend(store.record_failed([failed(B)]).closings))
    failing.advance(UPDATE_AFTER)
    assert store.cancel("j")
    failing.finish()
    assert store.record([done(B)]).closings == []
    assert (state(store), answers) == (JobState.CANCELLED, [])


def test_a_job_that_failed_meanwhile_is_not_cancelled(store: JobStore) -> None:
    """A failed job has ended; after its redrive it runs, and then it may be."""
    store.record([done(C)])
    slow = Worker(lambda: store.cancel("j"))
    slow.advance(NEXT_UPDATE)
    store.record_failed([failed(B)])
    slow.finish()
    assert state(store) is JobState.FAILED
    assert store.redrive([(B, 0)]) == [True]
    assert store.cancel("j")
    assert state(store) is JobState.CANCELLED


def test_a_cancel_cut_short_is_finished_by_the_next(store: JobStore) -> None:
    """Cancelled in its record and unknown to workers: saying it again tells them."""
    dying = Worker(lambda: store.cancel("j"))
    dying.advance(Moment("update_item", 0, "die_after"))
    assert (state(store), store.cancelled_since(0)) == (JobState.CANCELLED, set())
    assert store.cancel("j")
    assert store.cancelled_since(0) == {"j"}


@pytest.mark.parametrize("failed_too", [False, True], ids=["stage", "split with a failed part"])
def test_what_is_done_in_a_job_without_a_record_has_nothing_to_close(
    store: JobStore, wire: FakeDynamoDB, failed_too: bool
) -> None:
    """Its record expired, or is another service's: its tasks that are done are, whoever asks how often."""
    refs: list[Ref] = [part(0), B] if failed_too else [B]
    if failed_too:
        store.record([PartDone(ref=part(n)) for n in range(4)])
        store.record_failed([failed(part(4))])
    del wire.items["test/J#j", "META"]
    (error,) = store.record([done(B)]).errors
    assert error is not None
    known = store.already_done(refs)
    assert (known.refs, list(known.closings)) == (frozenset(refs), [])
