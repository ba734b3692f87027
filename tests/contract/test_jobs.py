"""The door to DynamoDB: the same promises on the embedded and on the local services."""

import os
import random
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import (
    PermanentError,
    ResultTooLargeError,
    ServiceRefusedError,
    ServiceUnavailableError,
)
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
    PartResult,
    PartRow,
    SplitFilled,
    SplitRef,
    StageDone,
    StageRef,
)
from pipeline.jobs.client import dynamodb_client
from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment, MakeSettings

PLAN = JobPlan(stages={"extract": ("report",), "analyse": ("report",), "report": ("report",)})
DAY = 86_400


@pytest.fixture(name="store")
def store_fixture(services: Services, make_settings: MakeSettings) -> JobStore:
    """A store with a table of its own."""
    store = JobStore(make_settings(services))
    store.provision()
    return store


def opened(store: JobStore, submitted_at: float | None = None) -> str:
    """A job that is open."""
    job_id = uuid.uuid4().hex
    assert store.open_jobs([new_job(job_id, submitted_at)]) == [True]
    return job_id


def new_job(job_id: str, submitted_at: float | None = None) -> NewJob:
    """A job submitted now, or then."""
    return NewJob(
        job_id=job_id,
        entity_id="entity",
        topic="received",
        plan=PLAN,
        submitted_at=time.time() if submitted_at is None else submitted_at,
    )


def split_of(job_id: str) -> SplitRef:
    """The split of a job's second stage."""
    return SplitRef(job_id=job_id, stage="analyse", split_id=f"split-{job_id}")


def parts_of(job_id: str, total: int) -> list[PartRef]:
    """All parts of that split."""
    split = split_of(job_id)
    return [
        PartRef(job_id=job_id, stage="analyse", split_id=split.split_id, ordinal=ordinal, total=total)
        for ordinal in range(total)
    ]


def result_of(part: PartRef, result: str, attempts: int = 1) -> PartResult:
    """What a part leaves."""
    return PartResult(ref=part, result=result, run_seconds=0.25, attempts=attempts)


def done(job_id: str, stage: str) -> StageDone:
    """A stage's good end."""
    return StageDone(
        ref=StageRef(job_id=job_id, stage=stage),
        task_id="task",
        ends_path=stage == "report",
        run_seconds=1.5,
        finished_at=1_700_000_000.25,
        worker="worker@host",
    )


def failed(part: PartRef, generation: int = 0) -> Failed:
    """A part's dead letter."""
    return Failed(
        ref=part,
        task_id="task",
        error="ValueError",
        message="x" * 10_000,
        attempts=4,
        failed_at=1_700_000_000.5,
        generation=generation,
    )


# ─── The table ───


def test_provisioning_twice_makes_the_table_once(services: Services, make_settings: MakeSettings) -> None:
    """The first run makes the table, the second finds it as it should be."""
    store = JobStore(make_settings(services))
    assert store.inspect().outcome == "missing"
    assert store.provision().outcome == "made"
    assert store.provision().outcome == "present"
    assert store.inspect().outcome == "present"


def test_what_differs_is_said_and_changed_only_when_asked(
    services: Services, make_settings: MakeSettings
) -> None:
    """A table without expiry is left alone, with the difference named, until update is asked for."""
    settings = make_settings(services)
    store = JobStore(settings)
    store.provision()
    dynamodb_client().update_time_to_live(
        TableName=settings.dynamodb_table,
        TimeToLiveSpecification={"Enabled": False, "AttributeName": "exp"},
    )
    report = store.provision()
    assert report.outcome == "differs"
    assert "time to live" in report.differences[0]
    assert store.provision(update=True).outcome == "changed"
    assert store.provision().outcome == "present"


def test_a_missing_table_is_a_refusal_that_names_the_mend(
    services: Services, make_settings: MakeSettings
) -> None:
    """Asking again would not help, and the message says what would."""
    settings = make_settings(services)
    store = JobStore(settings)
    with pytest.raises(ServiceRefusedError, match=rf"{settings.dynamodb_table}.*pipeline provision"):
        store.job("none")
    recorded = store.record([done("none", "extract"), PartDone(ref=parts_of("none", 1)[0])])
    assert [type(error) for error in recorded.errors] == [ServiceRefusedError] * 2


def test_a_service_that_is_away_is_unavailable(
    services: Services, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens: asking again later may help, and each outcome is told so."""
    store = JobStore(make_settings(services))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(ServiceUnavailableError, match="Could not"):
            store.job("any")
        recorded = store.record([done("any", "report"), PartDone(ref=parts_of("any", 1)[0])])
    assert [type(error) for error in recorded.errors] == [ServiceUnavailableError] * 2


def test_a_forked_child_has_connections_of_its_own(
    services: Services, make_environment: MakeEnvironment
) -> None:
    """A store that was used before a fork, on several threads, works in the child, and in the parent."""
    ran = subprocess.run(
        [sys.executable, "-c", FORKING],
        cwd=Path(__file__).parents[2],
        env=make_environment(services),
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0


#: A process of its own: the threads of this one would not survive a fork.
FORKING = """
import os
from config.settings import load_settings
from tests.contract.test_jobs import JobStore, new_job

store = JobStore(load_settings(os.environ))
store.provision()
many = [new_job(str(n)) for n in range(60)]
assert store.open_jobs(many) == [True] * 60
child = os.fork()
if child == 0:
    os._exit(0 if store.open_jobs(many) == [False] * 60 and store.job("7") else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert store.job("7")
"""


# ─── Jobs ───


def test_a_job_is_opened_once(store: JobStore) -> None:
    """The second to open a job changes nothing of it."""
    job = new_job("once")
    assert store.open_jobs([job]) == [True]
    assert store.open_jobs([new_job("once", submitted_at=1.0)]) == [False]
    read = store.job("once")
    assert read
    assert (read.state, read.entity_id, read.topic, read.plan, read.submitted_at) == (
        JobState.RUNNING,
        "entity",
        "received",
        PLAN,
        job.submitted_at,
    )
    assert store.job("another") is None


def test_two_services_share_a_table(services: Services, make_settings: MakeSettings) -> None:
    """The same job id in two services is two jobs."""
    first = JobStore(make_settings(services))
    first.provision()
    shared = make_settings(services).model_copy(update={"dynamodb_table": first.inspect().name})
    second = JobStore(shared)
    assert first.open_jobs([new_job("same")]) == [True]
    assert second.job("same") is None
    assert second.open_jobs([new_job("same")]) == [True]
    assert len(second.jobs().jobs) == 1


def test_a_job_without_split_completes_once(store: JobStore) -> None:
    """The last stage fills the job; once closed, no replay fills it again."""
    job_id = opened(store)
    assert store.record([done(job_id, "extract"), done(job_id, "analyse")]).closings == []
    (closing,) = store.record([done(job_id, "report"), done(job_id, "report")]).closings
    assert isinstance(closing, JobFilled)
    assert closing.job.job_id == job_id
    assert store.close(closing)
    assert not store.close(closing)
    assert store.record([done(job_id, "report")]).closings == []
    job = store.job(job_id)
    assert job
    assert job.state is JobState.COMPLETE
    assert job.closed_at


def test_many_stages_of_many_jobs_are_recorded_together(store: JobStore) -> None:
    """More outcomes than a request holds, some twice: all are recorded, and each job is closed."""
    jobs = [opened(store) for _ in range(30)]
    outcomes = [done(job_id, stage) for job_id in jobs for stage in ("extract", "report", "report")]
    recorded = store.record(outcomes)
    assert not any(recorded.errors)
    assert {closing.job.job_id for closing in recorded.closings if isinstance(closing, JobFilled)} == set(
        jobs
    )
    refs = [StageRef(job_id=job_id, stage=stage) for job_id in jobs for stage in PLAN.stages]
    checked = store.already_done(refs)
    assert checked.refs == {ref for ref in refs if ref.stage != "analyse"}


def test_a_job_without_a_record_is_refused(store: JobStore) -> None:
    """A job that nobody opened, or that expired, cannot be told of its end."""
    (error,) = store.record([done("nobody's", "report")]).errors
    assert isinstance(error, ServiceRefusedError)
    assert "nobody's" in str(error)


# ─── Splits ───


@pytest.mark.parametrize("size", [1, 200, 100_000], ids=["inline", "one page", "many pages"])
def test_sealed_parts_come_back_as_they_were(store: JobStore, size: int) -> None:
    """Whatever their size, the parts, the data and the header are read as they were written, in order."""
    split = split_of(opened(store))
    pieces = [
        f'{{"n": {n}, "text": "{os.urandom(size // 2).hex()}"}}' for n in range(12 if size > 500 else 300)
    ]
    sealed = store.seal(split, '{"h": 1}', '{"data": "é"}', iter(pieces))
    assert dict(store.parts(sealed)) == dict(enumerate(pieces))
    again = store.split(split)
    assert again == sealed
    assert (again.total, again.header, again.data) == (len(pieces), '{"h": 1}', '{"data": "é"}')
    assert store.splits([split, split_of("none")]) == {split: sealed}


def test_data_larger_than_an_item_is_kept(store: JobStore) -> None:
    """The data of the split's event may be as large as a Kafka message, however little it shrinks."""
    split = split_of(opened(store))
    data = f'"{os.urandom(500_000).hex()}"'
    store.seal(split, "{}", data, ["1"])
    sealed = store.split(split)
    assert sealed
    assert sealed.data == data


def test_a_seal_is_written_once(store: JobStore) -> None:
    """Who seals second gets the parts of the first, and nobody's number of parts changes."""
    split = split_of(opened(store))
    assert store.split(split) is None
    first = store.seal(split, "{}", "1", ["1", "2"])
    assert store.seal(split, "{}", "1", (str(n) for n in range(1_000))) == first
    assert store.split(split) == first


def test_a_generator_that_fails_seals_nothing(store: JobStore) -> None:
    """What the user's code raises comes out as it is, and the split is as before."""
    split = split_of(opened(store))

    def failing() -> Iterator[str]:
        yield from map(str, range(600))
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        store.seal(split, "{}", "1", failing())
    assert store.split(split) is None


def test_a_part_too_large_for_a_page_is_refused_for_ever(store: JobStore) -> None:
    """The message names the part and the limit."""
    with pytest.raises(ResultTooLargeError, match=r"Part 1 .*380,000"):
        store.seal(split_of(opened(store)), "{}", "1", ["1", f'"{"x" * 380_000}"'])


def test_the_first_result_of_a_part_stays(store: JobStore) -> None:
    """Code that is not deterministic gives a part two results: the gather always reads the first."""
    job_id = opened(store)
    parts = parts_of(job_id, 300)
    assert not any(store.put_results([result_of(part, f"{part.ordinal}") for part in parts]))
    assert store.put_results([result_of(parts[7], '"other"')]) == [None]
    assert list(store.results(split_of(job_id), 300)) == [str(ordinal) for ordinal in range(300)]


def test_a_result_too_large_for_an_item_is_refused_for_ever(store: JobStore) -> None:
    """The error names the limit; the other results of the batch are stored, also one just below it."""
    parts = parts_of(opened(store), 3)
    answers = store.put_results(
        [
            result_of(parts[0], "1"),
            result_of(parts[1], f'"{"é" * 200_000}"'),
            result_of(parts[2], f'"{"x" * 389_998}"'),
        ]
    )
    assert (answers[0], answers[2]) == (None, None)
    assert isinstance(answers[1], ResultTooLargeError)
    assert "390,000" in str(answers[1])


@pytest.mark.parametrize("missing", [0, 255, 256, 299])
def test_a_gather_never_runs_on_missing_results(store: JobStore, missing: int) -> None:
    """A result that is not there is an error, whichever it is."""
    job_id = opened(store)
    store.put_results([result_of(part, "1") for part in parts_of(job_id, 300) if part.ordinal != missing])
    with pytest.raises(PermanentError, match=f"part {missing} of 300"):
        list(store.results(split_of(job_id), 300))


def test_a_split_of_several_leaves_fills_once(store: JobStore) -> None:
    """700 parts, recorded in batches with repetitions: one gather, and none after it was sent."""
    job_id = opened(store)
    parts = [PartDone(ref=part) for part in parts_of(job_id, 700)]
    assert store.record(parts[:500]).closings == []
    assert store.record(parts[300:699] + parts[:20]).closings == []
    (closing,) = store.record([parts[699], parts[699], parts[3]]).closings
    assert closing == SplitFilled(split=split_of(job_id), total=700)
    assert store.close_all([closing, closing]) in ([True, False], [False, True])
    assert store.record(parts[690:]).closings == []
    assert store.already_done([split_of(job_id)]).refs == {split_of(job_id)}


def test_a_split_without_parts_is_closed_like_any(store: JobStore) -> None:
    """Zero parts go straight to the gather; a second delivery of the split sees that it was sent."""
    split = split_of(opened(store))
    sealed = store.seal(split, "{}", "1", [])
    assert (sealed.total, list(store.parts(sealed))) == (0, [])
    assert store.close(SplitFilled(split=split, total=0))
    assert store.already_done([split]).refs == {split}


# ─── Failures ───


def test_a_failed_job_completes_after_its_redrive(store: JobStore) -> None:
    """Done and failed parts end the job as failed; the redriven part completes it."""
    job_id = opened(store)
    parts = parts_of(job_id, 300)
    store.seal(split_of(job_id), "{}", "1", map(str, range(300)))
    store.record([PartDone(ref=part) for part in parts[:299]])
    (closing,) = store.record_failed([failed(parts[299])]).closings
    assert isinstance(closing, JobFailed)
    assert closing.job.state is JobState.FAILED
    assert closing.job.failed == {"analyse"}
    progress = store.progress(job_id)
    assert progress
    assert [(each.stage, each.state, each.done, each.failed, each.total) for each in progress[1]] == [
        ("extract", "not reached", 0, 0, 1),
        ("analyse", "failed", 299, 1, 300),
        ("report", "not reached", 0, 0, 1),
    ]
    (reason,) = store.failures(job_id)
    assert (reason.stage, reason.part, reason.error, reason.attempts) == ("analyse", 299, "ValueError", 4)
    assert store.redrive([(parts[299], 0)]) == [True]
    assert list(store.failures(job_id)) == []
    job = store.job(job_id)
    assert job
    assert (job.state, job.redrives, job.failed, job.closed_at) == (JobState.RUNNING, 1, frozenset(), None)
    assert [type(each) for each in store.record([PartDone(ref=parts[299])]).closings] == [SplitFilled]
    (filled,) = store.record([done(job_id, "analyse"), done(job_id, "report")]).closings
    assert isinstance(filled, JobFilled)
    store.close(filled)
    assert (
        store.redrive([(parts[299], 1), (parts[0], 0), (StageRef(job_id=job_id, stage="report"), 0)])
        == [False] * 3
    )


def test_what_cannot_be_reached_does_not_hold_a_job_open(store: JobStore) -> None:
    """The first stage fails: nothing after it will run, so the job has failed."""
    job_id = opened(store)
    first = Failed(
        ref=StageRef(job_id=job_id, stage="extract"),
        task_id="t",
        error="E",
        message="",
        attempts=1,
        failed_at=1.0,
    )
    (closing,) = store.record_failed([first, first]).closings
    assert isinstance(closing, JobFailed)
    (again,) = store.record_failed([first]).closings
    assert again == closing


# ─── Cancelling ───


def test_a_cancelled_job_is_never_anything_else(store: JobStore) -> None:
    """What still ends of it is recorded and counted, closes nothing, and cannot be redriven."""
    job_id = opened(store)
    parts = parts_of(job_id, 4)
    store.seal(split_of(job_id), "{}", "1", map(str, range(4)))
    store.record([done(job_id, "extract"), PartDone(ref=parts[0])])
    store.record_failed([failed(parts[1])])
    job = store.cancel(job_id)
    assert job
    assert (job.state, job.cancelled_at, job.closed_at) == (
        JobState.CANCELLED,
        job.closed_at,
        job.cancelled_at,
    )
    assert store.cancel(job_id) == store.job(job_id) == job
    progress = store.progress(job_id)
    assert progress
    assert [
        (each.stage, each.state, each.done, each.failed, each.cancelled, each.total) for each in progress[1]
    ] == [
        ("extract", "done", 1, 0, 0, 1),
        ("analyse", "cancelled", 1, 1, 2, 4),
        ("report", "cancelled", 0, 0, 1, 1),
    ]
    assert store.record([PartDone(ref=parts[2]), done(job_id, "report")]).closings == []
    assert store.record_failed([failed(parts[3])]).closings == []
    assert store.redrive([(parts[1], 0), (parts[3], 0)]) == [False, False]
    assert (store.recheck(job_id), store.resume(job_id)) == ([], [])
    after = store.job(job_id)
    assert after
    assert (after.state, after.cancelled_at) == (JobState.CANCELLED, job.cancelled_at)
    assert [each.job_id for each in store.jobs(JobState.CANCELLED).jobs] == [job_id]
    assert store.open_before(time.time() + 60).jobs == []


def test_what_has_ended_is_not_cancelled(store: JobStore) -> None:
    """A job that is complete, about to be, or failed stays as it is; one that is not there is none."""
    full, failing = opened(store), opened(store)
    (closing,) = store.record([done(full, "report")]).closings
    assert isinstance(closing, JobFilled)
    for state in (JobState.RUNNING, JobState.COMPLETE):
        job = store.cancel(full)
        assert job
        assert job.state is state
        store.close(closing)
    store.record_failed([failed(part) for part in parts_of(failing, 1)])
    job = store.cancel(failing)
    assert job
    assert job.state is JobState.FAILED
    assert store.cancel("nobody's") is None
    assert store.cancelled_since(0) == set()


def test_cancelled_jobs_are_found_by_when_they_were(store: JobStore) -> None:
    """Workers ask for those of the last minutes, and at their start for all."""
    before = time.time()
    jobs = {opened(store, before - DAY) for _ in range(3)}
    for job_id in jobs:
        store.cancel(job_id)
    assert store.cancelled_since(0) == store.cancelled_since(before - 1) == jobs
    assert store.cancelled_since(time.time() + 1) == set()


# ─── Lists ───


def test_jobs_are_listed_newest_first_page_by_page(store: JobStore) -> None:
    """Open and closed jobs of several days make one list; each is on one page, once."""
    now = time.time()
    ids = [opened(store, now - age * DAY / 2) for age in range(12)]
    for job_id in ids[2:6]:
        (closing,) = store.record([done(job_id, "report")]).closings
        assert isinstance(closing, JobFilled)
        store.close(closing)
    for job_id in ids[6:8]:
        store.record_failed([failed(part) for part in parts_of(job_id, 2)])
    seen: list[str] = []
    before = None
    while True:
        page = store.jobs(limit=5, before=before)
        seen += [job.job_id for job in page.jobs]
        before = page.next
        if before is None:
            break
    assert seen == ids
    assert [job.job_id for job in store.jobs(JobState.COMPLETE).jobs] == ids[2:6]
    assert [job.job_id for job in store.jobs(JobState.FAILED).jobs] == ids[6:8]
    assert [job.job_id for job in store.jobs(JobState.RUNNING, limit=3).jobs] == ids[:2] + ids[8:9]


def test_progress_counts_every_part_of_a_large_split(store: JobStore) -> None:
    """Full leaves are counted without being read, the others as they are."""
    job_id = opened(store)
    parts = parts_of(job_id, 1_000)
    store.seal(split_of(job_id), "{}", "1", map(str, range(1_000)))
    store.record([PartDone(ref=part) for part in (*parts[:256], *parts[300:310], *parts[990:])])
    store.record_failed([failed(parts[700])])
    progress = store.progress(job_id)
    assert progress
    analyse = progress[1][1]
    assert (analyse.state, analyse.done, analyse.failed, analyse.total) == ("running", 276, 1, 1_000)
    store.record([done(job_id, "extract")])
    progress = store.progress(job_id)
    assert progress
    extract = progress[1][0]
    assert (extract.state, extract.run_seconds, extract.worker) == ("done", 1.5, "worker@host")
    assert store.progress("nobody's") is None


def test_the_parts_of_a_large_split_are_read_page_by_page(store: JobStore) -> None:
    """Each part is on one page, with how it ended; a page may lie across leaves."""
    job_id = opened(store)
    parts = parts_of(job_id, 600)
    assert store.part_page(job_id, "analyse") is None
    store.seal(split_of(job_id), '{"h": 1}', "1", map(str, range(600)))
    store.put_results([result_of(part, "1", attempts=2) for part in parts[250:260]])
    store.record([PartDone(ref=part) for part in parts[250:261]])
    store.record_failed([failed(parts[261])])
    rows: dict[int, PartRow] = {}
    after, pages = None, 0
    while pages == 0 or after is not None:
        page = store.part_page(job_id, "analyse", after=after, limit=255)
        assert page
        assert (page.split, page.total, page.header) == (split_of(job_id), 600, '{"h": 1}')
        rows |= {row.ordinal: row for row in page.parts}
        after, pages = page.next, pages + 1
    assert (list(rows), pages) == (list(range(600)), 3)
    assert rows[255] == PartRow(ordinal=255, state="done", attempts=2, run_seconds=0.25)
    assert rows[260] == PartRow(ordinal=260, state="done")
    assert (rows[261].state, rows[261].error, rows[261].attempts) == ("failed", "ValueError", 4)
    assert rows[0] == PartRow(ordinal=0, state="waiting")
    store.cancel(job_id)
    last = store.part_page(job_id, "analyse", after=259, limit=3)
    assert last
    assert [row.state for row in last.parts] == ["done", "failed", "cancelled"]
    assert store.part_page(job_id, "report") is None
    beyond = store.part_page(job_id, "analyse", after=599)
    assert beyond
    assert (beyond.parts, beyond.next) == ((), None)


# ─── Attempts ───


def test_attempts_are_counted_for_each_message(store: JobStore) -> None:
    """A receive count counts once; the same task redriven as another message starts anew."""
    assert [store.add_attempt("task", "message", count) for count in (1, 1, 3)] == [1, 1, 2]
    assert store.add_attempt("task", "redriven", 1) == 1
    messages = [("task", "message"), ("task", "redriven"), ("task", "never")]
    assert store.attempts(messages) == dict(zip(messages, (2, 1, 0), strict=True))


# ─── Costs ───


class Meter:
    """The write units that a client's requests consume."""

    def __init__(self) -> None:
        self.units = 0.0
        events = dynamodb_client().meta.events
        events.register("before-parameter-build.dynamodb", self._ask)
        events.register("after-call.dynamodb", self._count)

    def _ask(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        if "ReturnConsumedCapacity" in model.input_shape.members:
            params["ReturnConsumedCapacity"] = "TOTAL"

    def _count(self, parsed: dict[str, Any], model: Any, **_: Any) -> None:
        if model.name in ("PutItem", "UpdateItem", "BatchWriteItem"):
            consumed = parsed.get("ConsumedCapacity", ())
            tables = consumed if isinstance(consumed, list) else [consumed]
            self.units += sum(each["CapacityUnits"] for each in tables if each)


def test_a_task_costs_no_more_write_units_than_promised(
    local_services: Services, make_settings: MakeSettings
) -> None:
    """At most 3 a task in jobs of three stages; at most 0.25 a part in a large split, beside its result.

    Parts end about in order, as those of concurrent workers do, and are recorded ten at a time.
    """
    store = JobStore(make_settings(local_services))
    store.provision()
    meter = Meter()
    job_id = opened(store)
    (closing,) = store.record([done(job_id, stage) for stage in PLAN.stages]).closings
    assert isinstance(closing, JobFilled)
    store.close(closing)
    assert 0 < meter.units <= 3 * 3
    meter.units = 0
    total = 2_560
    store.seal(
        split_of(job_id), "{}", "1", (f'{{"path": "/a/file", "offset": {n}000}}' for n in range(total))
    )
    parts = [PartDone(ref=part) for part in parts_of(job_id, total)]
    order = sorted(parts, key=lambda part: part.ref.ordinal + random.Random(part.ref.ordinal).uniform(0, 100))
    for start in range(0, total, 10):
        store.record(order[start : start + 10])
    assert 0 < meter.units / total <= 0.25
