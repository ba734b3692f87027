"""Interleavings that once broke a design, played step by step on an in-memory wire."""

from dataclasses import replace

import pytest
from botocore.exceptions import EndpointConnectionError

from pipeline.errors import ServiceUnavailableError
from pipeline.jobs import (
    FailedTask,
    JobFailed,
    JobFilled,
    JobPlan,
    JobState,
    JobStore,
    NewJob,
    PartDone,
    PartRef,
    PartResult,
    Ref,
    SplitFilled,
    SplitRef,
    StageDone,
    StageRef,
    TaskOverError,
)
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB
from tests.jobs_machine import small_tree
from tests.jobs_world import Moment, SequentialTable, Wire, Worker, as_before

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
    store = store_on(wire)
    plan = JobPlan(stages={"a": ("b", "c"), "b": ("b",), "c": ("c",)})
    store.records.open([NewJob(job_id="j", entity_id="e", topic="t", plan=plan, submitted_at=1.0)])
    return store


def store_on(wire: FakeDynamoDB) -> JobStore:
    """A process's store of the table."""
    settings = builders.settings(service_name="test")
    table = SequentialTable("jobs", lambda: Wire(wire, lambda: None))  # type: ignore[arg-type,return-value]
    return JobStore(settings, table=table, clock=lambda: 1_700_000_000.0)


def done(ref: StageRef) -> StageDone:
    """A stage's good end; a has followers."""
    return StageDone(ref=ref, task_id="t", ends_path=ref != A, run_seconds=0.1, finished_at=1.0, worker="w")


def failed(ref: Ref, generation: int = 0) -> FailedTask:
    """A dead letter."""
    return FailedTask(
        ref=ref, task_id="t", error="E", message="m", attempts=3, failed_at=1.0, generation=generation
    )


def open_as_before(wire: FakeDynamoDB) -> None:
    """Make the job one that a version before ADR 23 opened."""
    del wire.items["test/J#j", "META"]["layout"]


def part(ordinal: int, total: int = 5) -> PartRef:
    """A part of stage b."""
    return PartRef(job_id="j", stage="b", split_id="s", ordinal=ordinal, total=total)


def page(first: int) -> SplitRef:
    """The task that sends the parts of stage b from a page on."""
    return SplitRef(job_id="j", stage="b", split_id="s", page=first)


def state(store: JobStore) -> JobState:
    """The job's state."""
    job = store.records.get("j")
    assert job
    return job.state


@pytest.mark.parametrize("writes", [1, 2, 3], ids=["leaf told", "top told", "job told"])
def test_a_failure_on_its_way_up_does_not_undo_a_redrive(store: JobStore, writes: int) -> None:
    """A worker that stops after any write of a failure cannot fail a job that was redriven meanwhile."""
    store.tasks.record([PartDone(ref=part(ordinal)) for ordinal in range(4)])
    store.tasks.record([done(C)])
    slow = Worker(lambda: store.tasks.fail([failed(part(4))]))
    slow.advance(Moment("update_item", writes, "none"))
    store.tasks.fail([failed(part(4))])
    assert state(store) is JobState.FAILED
    assert store.resumption.redrive([(part(4), 0)]) == [None]
    slow.finish()
    assert state(store) is JobState.RUNNING
    assert store.records.recheck("j") == []


def test_each_event_of_one_stage_is_done_for_itself(store: JobStore) -> None:
    """A job may have several events of one stage: what one of them did is not done of the others."""
    one, two = (replace(B, task_id=task_id) for task_id in ("one", "two"))
    store.tasks.record([replace(done(one), task_id="one")])
    assert store.resumption.already_done([one, two, B]).refs == {one, B}
    assert store.tasks.fail([replace(failed(two), task_id="two")]).closings == []
    assert store.resumption.redrive([(two, 0)]) == [None]
    (over,) = store.resumption.redrive([(one, 0)])
    assert isinstance(over, TaskOverError)


def test_an_event_that_failed_beside_a_complete_job_can_be_redriven(store: JobStore) -> None:
    """The job stays complete; the event's own work would be lost with its dead letter."""
    store.tasks.record([replace(done(replace(B, task_id="one")), task_id="one"), done(C)])
    job = store.records.get("j")
    assert job
    assert store.close([JobFilled(job=job)]) == [None]
    assert store.resumption.redrive([(replace(B, task_id="two"), 0)]) == [None]
    assert state(store) is JobState.COMPLETE


def test_each_split_of_one_stage_has_its_own_parts(store: JobStore) -> None:
    """Of two events of one stage in a job, each is split, counted and gathered for itself."""
    other = replace(SPLIT, split_id="t")
    assert store.splits.seal(SPLIT, "{}", "{}", ["1", "2"]).inline == ("1", "2")
    assert store.splits.seal(other, "{}", "{}", ["3"], 0.5).inline == ("3",)
    assert store.splits.seal(other, "{}", "{}", ["4"]).inline == ("3",), "the first run of a split wins"
    sealed = store.splits.sealed_many([SPLIT, other])
    assert [sealed[each].inline for each in (SPLIT, other)] == [("1", "2"), ("3",)]
    assert store.splits.sealed(replace(SPLIT, split_id="u")) is None
    assert [store.splits.tolerance(each) for each in (SPLIT, other)] == [0, 0.5]
    part_of_other = PartRef(job_id="j", stage="b", split_id="t", ordinal=0, total=1)
    filled = SplitFilled(split=other, total=1)
    assert list(store.tasks.record([PartDone(ref=part_of_other)]).closings) == [filled]
    assert filled in store.resumption.resume("j")


def test_each_failure_after_a_redrive_is_a_new_one(store: JobStore) -> None:
    """The job-failed event of a second failure has another id: the redrives are one more."""
    store.tasks.record([PartDone(ref=part(ordinal)) for ordinal in range(4)])
    store.tasks.record([done(C)])
    for generation in range(3):
        recorded = store.tasks.fail([failed(part(4), generation)])
        (closing,) = recorded.closings
        assert isinstance(closing, JobFailed)
        assert closing.job.redrives == generation
        assert store.resumption.redrive([(part(4), generation)]) == [None]
    (closing,) = store.tasks.record([PartDone(ref=part(4))]).closings
    assert isinstance(closing, SplitFilled)


def test_a_failure_that_comes_again_late_counts_for_nothing(store: JobStore) -> None:
    """A replayed record of a failure that was redriven leaves the job running."""
    store.tasks.record([done(C)])
    store.tasks.fail([failed(B)])
    store.resumption.redrive([(B, 0)])
    assert store.tasks.fail([failed(B)]).closings == []
    assert state(store) is JobState.RUNNING


@pytest.mark.parametrize(
    ("first", "later"),
    [(B, GATHER), (page(0), page(2)), (SPLIT, page(0))],
    ids=["event and gather", "two pages", "split and page"],
)
def test_the_redrive_of_a_task_hides_no_failure_of_another(store: JobStore, first: Ref, later: Ref) -> None:
    """Tasks of a stage fail each for itself: the first failure of one counts after the redrive of another."""
    store.tasks.record([done(C)])
    store.tasks.fail([failed(first)])
    assert store.resumption.redrive([(first, 0)]) == [None]
    (closing,) = store.tasks.fail([failed(later)]).closings
    assert isinstance(closing, JobFailed)
    assert store.resumption.redrive([(later, 0)]) == [None]
    assert state(store) is JobState.RUNNING


def test_a_job_has_failed_while_one_task_of_its_stage_has(store: JobStore) -> None:
    """Of two failed page tasks one is redriven: the other still fails the job, and says why."""
    store.tasks.record([done(C)])
    store.tasks.fail([failed(page(0)), failed(page(1))])
    assert store.resumption.redrive([(page(0), 0)]) == [None]
    assert [each.part for each in store.listing.failures("j")] == ["page-1"]
    (closing,) = store.records.recheck("j")
    assert isinstance(closing, JobFailed)
    assert closing.job.failed == {"b"}


def test_a_replay_beside_a_redriven_part_leaves_the_job_running(store: JobStore) -> None:
    """While a redriven part runs, nothing that is recorded again in its leaf ends the job."""
    store.tasks.record([PartDone(ref=part(ordinal)) for ordinal in range(4)])
    store.tasks.record([done(C)])
    store.tasks.fail([failed(part(4))])
    store.resumption.redrive([(part(4), 0)])
    assert store.tasks.record([PartDone(ref=part(3))]).closings == []
    assert store.resumption.already_done([part(3)]).closings == []
    assert state(store) is JobState.RUNNING


def test_a_job_that_filled_meanwhile_is_not_failed(store: JobStore) -> None:
    """A worker that saw the job ended with a failure does not write so once its copy made it complete."""
    store.tasks.record([done(C)])
    slow = Worker(lambda: store.tasks.fail([failed(B)]))
    slow.advance(UPDATE_AFTER)
    (closing,) = store.tasks.record([done(B)]).closings
    assert isinstance(closing, JobFilled)
    slow.finish()
    assert state(store) is JobState.RUNNING
    assert store.close([closing]) == [None]
    assert state(store) is JobState.COMPLETE


def test_a_job_that_was_redriven_meanwhile_is_not_failed(store: JobStore) -> None:
    """A worker that saw the job ended with a failure does not write so after its redrive."""
    store.tasks.record([done(C)])
    slow = Worker(lambda: store.tasks.fail([failed(B)]))
    slow.advance(UPDATE_AFTER)
    assert store.resumption.redrive([(B, 0)]) == [None]
    slow.finish()
    assert state(store) is JobState.RUNNING


def test_a_redrive_that_comes_too_late_does_not_open_a_complete_job(store: JobStore) -> None:
    """A person's redrive that began before the job completed leaves it complete, and says so."""
    store.tasks.record([done(C)])
    store.tasks.fail([failed(B)])
    answers: list[object] = []
    slow = Worker(lambda: answers.extend(store.resumption.redrive([(B, 0)])))
    slow.advance(NEXT_UPDATE)
    (closing,) = store.tasks.record([done(B)]).closings
    assert isinstance(closing, JobFilled)
    assert store.close([closing]) == [None]
    slow.finish()
    assert state(store) is JobState.COMPLETE
    assert [type(each) for each in answers] == [TaskOverError]


def test_a_stage_that_is_done_did_not_fail(store: JobStore) -> None:
    """The dead letter of a copy fails no job whose stage went well: what follows it still runs."""
    store.tasks.record([done(A)])
    assert store.tasks.fail([failed(A)]).closings == []
    assert state(store) is JobState.RUNNING


def test_a_record_cut_short_is_finished_by_the_failure_of_its_copy(
    store: JobStore, wire: FakeDynamoDB
) -> None:
    """A worker dies after its stage's record and before the job's: the copy that fails tells the job.

    In a job that an earlier version opened: in others both are one write.
    """
    open_as_before(wire)
    store.tasks.record([done(C)])
    dying = Worker(lambda: store.tasks.record([done(B)]))
    dying.advance(Moment("update_item", 1, "die"))
    (closing,) = store.tasks.fail([failed(B)]).closings
    assert isinstance(closing, JobFilled)


@pytest.mark.parametrize("ref", [B, part(0, total=1)], ids=["stage", "part"])
def test_what_is_done_after_all_tells_no_failure(store: JobStore, ref: Ref) -> None:
    """A replay mended it: the redrive of its dead letter only removes that, and why it failed."""
    store.tasks.fail([failed(ref)])
    store.tasks.record([PartDone(ref=ref) if isinstance(ref, PartRef) else done(B)])
    assert [type(each) for each in store.resumption.redrive([(ref, 0)])] == [TaskOverError]
    assert list(store.listing.failures("j")) == []


def test_a_part_that_its_gather_went_on_without_still_tells_why(store: JobStore) -> None:
    """Its redrive comes too late, and the result lacks it for ever."""
    store.splits.seal(SPLIT, "{}", "0", ["0", "1"], tolerate=0.5)
    store.tasks.record([PartDone(ref=part(0, total=2))])
    (closing,) = store.tasks.fail([failed(part(1, total=2))]).closings
    assert isinstance(closing, SplitFilled)
    assert store.close([closing]) == [None]
    assert [type(each) for each in store.resumption.redrive([(part(1, total=2), 0)])] == [TaskOverError]
    assert [each.part for each in store.listing.failures("j")] == [1]


def test_a_redriven_task_that_was_done_leaves_no_job_running_for_ever(store: JobStore) -> None:
    """When nothing is left to run after a redrive, the recheck that follows it ends the job anew."""
    store.tasks.fail([failed(A)])
    slow = Worker(lambda: store.resumption.redrive([(A, 0)]))
    slow.advance(NEXT_UPDATE)
    store.tasks.record([done(A)])
    store.tasks.fail([failed(B), failed(C)])
    slow.finish()
    assert state(store) is JobState.RUNNING
    (closing,) = store.records.recheck("j")
    assert isinstance(closing, JobFailed)
    assert closing.job.redrives == 1


def test_whoever_records_the_last_failure_again_is_told_again(store: JobStore) -> None:
    """A worker that died before it announced the failed job is followed by one that does."""
    store.tasks.record([done(C)])
    first = store.tasks.fail([failed(B)]).closings
    assert [type(closing) for closing in first] == [JobFailed]
    assert store.tasks.fail([failed(B)]).closings == first


@pytest.mark.parametrize("ordinal", [0, 4])
def test_whoever_finds_the_last_part_done_closes_its_split(store: JobStore, ordinal: int) -> None:
    """A worker that died between recording the last part and the gather leaves it to the next delivery."""
    others = [PartDone(ref=part(each)) for each in range(5) if each != ordinal]
    store.tasks.record(others)
    dying = Worker(lambda: store.tasks.record([PartDone(ref=part(ordinal))]))
    dying.advance(Moment("update_item", 1, "die"))
    already = store.resumption.already_done([part(ordinal)])
    assert already.refs == {part(ordinal)}
    assert already.closings == [SplitFilled(split=SPLIT, total=5)]


def test_a_closed_split_is_not_closed_again(store: JobStore) -> None:
    """Once the gather is sent, neither a replay nor a check asks for it."""
    everything = [PartDone(ref=part(ordinal)) for ordinal in range(5)]
    (closing,) = store.tasks.record(everything).closings
    assert isinstance(closing, SplitFilled)
    assert store.close([closing]) == [None]
    assert store.close([closing]) == [None]
    assert store.tasks.record(everything).closings == []
    assert store.resumption.already_done([part(0), SPLIT]).refs == {part(0), SPLIT}
    assert store.resumption.already_done([part(0), SPLIT]).closings == []


def test_two_runs_of_a_split_never_mix(store: JobStore) -> None:
    """The run that seals second adopts every part of the first, though its own pages are written later."""
    sealed: list[object] = []
    slow = Worker(
        lambda: sealed.append(store.splits.seal(SPLIT, "{}", "0", (f'"slow {n}"' for n in range(7))))
    )
    slow.advance(Moment("batch_write_item", 0, "none"))
    winner = store.splits.seal(SPLIT, "{}", "0", (f'"quick {n}"' for n in range(5)))
    slow.finish()
    assert sealed == [winner]
    assert dict(store.splits.parts(winner)) == {n: f'"quick {n}"' for n in range(5)}


def test_one_refused_write_does_not_touch_the_other_outcomes(store: JobStore) -> None:
    """Each outcome is told whether it is recorded; only those of the refused write are not."""
    outcomes = [PartDone(ref=part(0)), PartDone(ref=part(3)), PartDone(ref=part(1)), PartDone(ref=part(4))]
    answers: list[list[object]] = []
    worker = Worker(lambda: answers.append(list(store.tasks.record(outcomes).errors)))
    worker.advance(Moment("update_item", 1, "refuse"))
    worker.finish()
    first, second, third, fourth = answers[0]
    assert first is None
    assert third is None
    assert isinstance(second, ServiceUnavailableError)
    assert isinstance(second.__cause__, EndpointConnectionError)
    assert fourth is second


@pytest.mark.parametrize(
    ("before", "kind", "skip"),
    [(False, "update_item", 0)]
    + [
        (True, kind, skip) for kind, skip in (("update_item", 0), ("batch_write_item", 0), ("update_item", 1))
    ],
)
def test_a_stage_whose_record_was_refused_is_told_so(
    store: JobStore, wire: FakeDynamoDB, before: bool, kind: str, skip: int
) -> None:
    """Neither the stage's record nor the job's may be missing without an error, in a job of any version."""
    if before:
        open_as_before(wire)
    answers: list[list[object]] = []
    worker = Worker(lambda: answers.append(list(store.tasks.record([done(B)]).errors)))
    worker.advance(Moment(kind, skip, "refuse"))
    worker.finish()
    assert isinstance(answers[0][0], ServiceUnavailableError)


def test_the_end_of_a_path_is_one_write(store: JobStore, wire: FakeDynamoDB) -> None:
    """A job has the end of its path and the stage's record, or neither; a redelivery needs no run."""
    counted: list[str] = []
    worker = Worker(lambda: store.tasks.record([done(B), done(C)]))
    while not worker.finished:
        counted.append(worker.next)
        worker.step()
    assert counted == ["update_item"]
    assert store.resumption.already_done([B, C, A]).refs == {B, C}
    assert [type(each) for each in store.resumption.already_done([B]).closings] == [JobFilled]


def test_a_job_of_an_earlier_version_ends_as_it_began(store: JobStore, wire: FakeDynamoDB) -> None:
    """Its workers find a stage where they look for it, and this version finds what they recorded."""
    open_as_before(wire)
    before = as_before(store_on(wire))
    assert before.tasks.record([done(A), done(B)]).closings == []
    assert store.resumption.already_done([A, B, C]).refs == {A, B}
    (closing,) = store.tasks.record([done(C)]).closings
    assert isinstance(closing, JobFilled)
    assert before.resumption.already_done([A, B, C]).refs == {A, B, C}
    assert before.tasks.record([done(C)]).closings == [closing]
    assert store.close([closing]) == [None]
    assert before.tasks.record([done(B)]).closings == []
    assert state(before) is JobState.COMPLETE


def test_a_failure_that_was_not_recorded_is_told_so(store: JobStore) -> None:
    """Whichever write of a failure is refused, its message must come again."""
    for skip in range(3):
        answers: list[list[object]] = []
        worker = Worker(lambda answers=answers: answers.append(list(store.tasks.fail([failed(B)]).errors)))  # type: ignore[misc]
        worker.advance(Moment("any", skip, "refuse"))
        worker.finish()
        assert isinstance(answers[0][0], ServiceUnavailableError)


# ─── Cancelling ───


def test_a_job_that_filled_meanwhile_is_not_cancelled(store: JobStore) -> None:
    """A person's cancel that began before the last stage was done leaves the job to complete."""
    store.tasks.record([done(C)])
    slow = Worker(lambda: store.cancel("j"))
    slow.advance(NEXT_UPDATE)
    (closing,) = store.tasks.record([done(B)]).closings
    slow.finish()
    assert state(store) is JobState.RUNNING
    assert store.close([closing]) == [None]  # type: ignore[list-item]
    assert state(store) is JobState.COMPLETE
    assert store.cancelled_since(0) == set()


def test_a_job_that_was_cancelled_meanwhile_is_neither_failed_nor_complete(store: JobStore) -> None:
    """Workers that were about to end the job find it cancelled, and nothing is announced."""
    store.tasks.record([done(C)])
    answers: list[object] = []
    failing = Worker(lambda: answers.extend(store.tasks.fail([failed(B)]).closings))
    failing.advance(UPDATE_AFTER)
    assert store.cancel("j")
    failing.finish()
    assert store.tasks.record([done(B)]).closings == []
    assert (state(store), answers) == (JobState.CANCELLED, [])


def test_a_job_that_failed_meanwhile_is_not_cancelled(store: JobStore) -> None:
    """A failed job has ended; after its redrive it runs, and then it may be."""
    store.tasks.record([done(C)])
    slow = Worker(lambda: store.cancel("j"))
    slow.advance(NEXT_UPDATE)
    store.tasks.fail([failed(B)])
    slow.finish()
    assert state(store) is JobState.FAILED
    assert store.resumption.redrive([(B, 0)]) == [None]
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
        store.tasks.record([PartDone(ref=part(n)) for n in range(4)])
        store.tasks.fail([failed(part(4))])
    del wire.items["test/J#j", "META"]
    (error,) = store.tasks.record([done(B)]).errors
    assert error is not None
    known = store.resumption.already_done(refs)
    assert (known.refs, list(known.closings)) == (frozenset(refs), [])


# ─── Results in the counter ───


def keep(ordinal: int, text: str, total: int = 3) -> PartDone:
    """A part's good end with a result that is stored with it."""
    return PartDone(ref=part(ordinal, total), result=result(ordinal, text, total))


def result(ordinal: int, text: str, total: int = 3) -> PartResult:
    """The result of a run of a part."""
    return PartResult(ref=part(ordinal, total), result=text, run_seconds=0.1, attempts=2)


def gathered(store: JobStore, total: int = 3) -> list[str]:
    """The results that the gather reads."""
    return list(store.splits.results(SPLIT, total))


def test_a_small_part_is_counted_and_stored_in_one_write(store: JobStore) -> None:
    """Whoever finds the counter full finds every result; a worker that dies before has done neither."""
    dying = Worker(lambda: store.tasks.record([keep(0, "0")]))
    dying.step("die")
    assert store.resumption.already_done([part(0, 3)]).refs == set()
    assert store.tasks.record([keep(0, "0"), keep(2, "2")]).closings == []
    (closing,) = store.tasks.record([keep(1, "1")]).closings
    assert closing == SplitFilled(split=SPLIT, total=3)
    assert gathered(store) == ["0", "1", "2"]


def test_the_first_result_of_a_counted_part_stays(store: JobStore) -> None:
    """A copy that runs again has another result; the others of its batch are counted with theirs."""
    store.tasks.record([keep(1, "first")])
    recorded = store.tasks.record([keep(0, "0"), keep(1, "second"), keep(2, "2")])
    assert recorded.errors == [None] * 3
    assert [type(each) for each in recorded.closings] == [SplitFilled]
    assert gathered(store) == ["0", "first", "2"]
    assert [type(each) for each in store.tasks.record([keep(1, "third")]).closings] == [SplitFilled]
    assert gathered(store) == ["0", "first", "2"]


def test_results_too_large_for_the_counter_are_gathered_with_the_others(store: JobStore) -> None:
    """A part has the result that it was counted with, wherever a later run of it stores another one."""
    store.splits.put_results([result(0, "large")])
    store.tasks.record([PartDone(ref=part(0, 3)), keep(1, "1"), keep(2, "2")])
    store.splits.put_results([result(1, "large, later")])
    store.tasks.record([PartDone(ref=part(1, 3)), keep(0, "small, later")])
    assert gathered(store) == ["large", "1", "2"]


def test_a_small_part_fails_and_is_redriven_like_any(store: JobStore) -> None:
    """Failures are counted beside results; the redriven part fills the counter."""
    store.tasks.record([done(A), done(C), keep(0, "0"), keep(1, "1")])
    assert [type(each) for each in store.tasks.fail([failed(part(2, 3))]).closings] == [JobFailed]
    assert store.resumption.redrive([(part(2, 3), 0)]) == [None]
    assert [type(each) for each in store.tasks.record([keep(2, "2")]).closings] == [SplitFilled]
    assert gathered(store) == ["0", "1", "2"]
    assert [type(each) for each in store.resumption.redrive([(part(2, 3), 0)])] == [TaskOverError]


@pytest.mark.parametrize(
    ("layout", "total", "keeps"), [(1, 2, False), (2, 2, True), (2, 0, False), (2, 4, False)]
)
def test_a_seal_says_whether_results_are_kept(store: JobStore, layout: int, total: int, keeps: bool) -> None:
    """For ever, as all workers are to do the same: of few parts, in a job of this version."""
    sealed = store.splits.seal(SPLIT, "{}", "0", map(str, range(total)), layout=layout)
    assert sealed.keeps is keeps
    assert store.splits.seal(SPLIT, "{}", "0", ["1"], layout=2) == sealed == store.splits.sealed(SPLIT)
    assert store.splits.unsealed(SPLIT) is None


def test_the_layout_of_a_job_is_read_with_the_split(store: JobStore, wire: FakeDynamoDB) -> None:
    """Jobs of an earlier version have none, nor has one without a record."""
    assert store.splits.unsealed(SPLIT) == 2
    open_as_before(wire)
    assert store.splits.unsealed(SPLIT) == 1
    assert store.splits.unsealed(replace(SPLIT, job_id="unknown")) == 1
    other = replace(SPLIT, split_id="other")
    store.splits.seal(SPLIT, "{}", "0", ["1"])
    assert store.splits.unsealed(other) == 1
    store.splits.seal(other, "{}", "0", ["1"])
    assert store.splits.unsealed(other) is None
