"""The door to DynamoDB: the same promises on the embedded and on the local services."""

import os
import random
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
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
    FailedTask,
    JobFailed,
    JobFilled,
    JobPlan,
    JobState,
    JobStore,
    KeptResult,
    NewJob,
    PartDone,
    PartRef,
    PartResult,
    PartRow,
    PastAttempts,
    Ref,
    SplitFilled,
    SplitRef,
    StageDone,
    StageRef,
    TaskOverError,
    Verdict,
    WriteCapacity,
)
from pipeline.jobs.dynamodb import dynamodb_client
from pipeline.jobs.schema import table_definition
from pipeline.jobs.table import Table
from pipeline.services.environment import Services
from pipeline.telemetry import metrics
from tests.conftest import MakeEnvironment, MakeSettings

PLAN = JobPlan(stages={"extract": ("report",), "analyse": ("report",), "report": ("report",)})
DAY = 86_400


@pytest.fixture(name="store")
def store_fixture(services: Services, make_settings: MakeSettings) -> JobStore:
    """A store with a table of its own."""
    store = JobStore(make_settings(services))
    store.schema.provision()
    return store


def opened(store: JobStore, submitted_at: float | None = None) -> str:
    """A job that is open."""
    job_id = uuid.uuid4().hex
    assert store.records.open([new_job(job_id, submitted_at)]).errors == [None]
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
    """Return the result of a part."""
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


def failed(part: PartRef, generation: int = 0) -> FailedTask:
    """A part's dead letter."""
    return FailedTask(
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
    assert store.schema.inspect().outcome == "missing"
    assert store.schema.provision().outcome == "made"
    assert store.schema.provision().outcome == "present"
    assert store.schema.inspect().outcome == "present"


def test_what_differs_is_said_and_changed_only_when_asked(
    services: Services, make_settings: MakeSettings
) -> None:
    """A table without expiry is left alone, with the difference named, until update is asked for."""
    settings = make_settings(services)
    store = JobStore(settings)
    store.schema.provision()
    dynamodb_client().update_time_to_live(
        TableName=settings.dynamodb_table,
        TimeToLiveSpecification={"Enabled": False, "AttributeName": "exp"},
    )
    report = store.schema.provision()
    assert report.outcome == "differs"
    assert "time to live" in report.differences[0]
    assert store.schema.provision(update=True).outcome == "changed"
    assert store.schema.provision().outcome == "present"


def test_emulators_take_the_warm_throughput_and_tell_none(
    services: Services, make_settings: MakeSettings
) -> None:
    """A table is made and updated with the setting; nothing differs, and its capacity is not known."""
    settings = make_settings(services)
    warm = JobStore(settings.model_copy(update={"dynamodb_warm_writes": 20_000})).schema
    assert warm.provision().outcome == "made"
    assert warm.provision(update=True).outcome == "present"
    assert warm.inspect().write_capacity is None
    assert JobStore(settings).schema.provision().outcome == "present"


def test_provisioned_capacity_stays(services: Services, make_settings: MakeSettings) -> None:
    """A table that somebody made with provisioned capacity is no difference; update leaves its billing."""
    settings = make_settings(services)
    units = {"ReadCapacityUnits": 50, "WriteCapacityUnits": 500}
    definition = table_definition(settings.dynamodb_table)
    (index,) = definition["GlobalSecondaryIndexes"]
    dynamodb_client().create_table(
        **{
            **definition,
            "BillingMode": "PROVISIONED",
            "ProvisionedThroughput": units,
            "GlobalSecondaryIndexes": [{**index, "ProvisionedThroughput": units}],
        }
    )
    schema = JobStore(settings).schema
    differences = schema.provision().differences
    assert [text for text in differences if "time to live" not in text and "recovery" not in text] == []
    schema.provision(update=True)
    assert schema.provision(update=True).outcome == "present"
    assert schema.inspect().write_capacity == WriteCapacity(
        provisioned=True, table=500, index=500, rising=False
    )


def test_a_missing_table_is_a_refusal_that_names_the_mend(
    services: Services, make_settings: MakeSettings
) -> None:
    """Asking again would not help, and the message says what would."""
    settings = make_settings(services)
    store = JobStore(settings)
    with pytest.raises(ServiceRefusedError, match=rf"{settings.dynamodb_table}.*pipeline provision"):
        store.records.get("none")
    recorded = store.tasks.record([done("none", "extract"), PartDone(ref=parts_of("none", 1)[0])])
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
            store.records.get("any")
        recorded = store.tasks.record([done("any", "report"), PartDone(ref=parts_of("any", 1)[0])])
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
from pipeline.settings import load_settings
from tests.contract.test_jobs import JobStore, new_job

store = JobStore(load_settings(os.environ))
store.schema.provision()
many = [new_job(str(n)) for n in range(60)]
assert store.records.open(many).errors == [None] * 60
child = os.fork()
if child == 0:
    os._exit(0 if store.records.open(many).errors == [None] * 60 and store.records.get("7") else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert store.records.get("7")
"""


# ─── Jobs ───


def test_a_job_is_opened_once(store: JobStore) -> None:
    """The second to open a job changes nothing of it."""
    job = new_job("once")
    assert store.records.open([job]).errors == [None]
    assert store.records.open([new_job("once", submitted_at=1.0)]).errors == [None]
    read = store.records.get("once")
    assert read
    assert (read.state, read.entity_id, read.topic, read.plan, read.submitted_at) == (
        JobState.RUNNING,
        "entity",
        "received",
        PLAN,
        job.submitted_at,
    )
    assert store.records.get("another") is None


def test_two_services_share_a_table(services: Services, make_settings: MakeSettings) -> None:
    """The same job id in two services is two jobs."""
    first = JobStore(make_settings(services))
    first.schema.provision()
    shared = make_settings(services).model_copy(update={"dynamodb_table": first.schema.inspect().name})
    second = JobStore(shared)
    assert first.records.open([new_job("same")]).errors == [None]
    assert second.records.get("same") is None
    assert second.records.open([new_job("same")]).errors == [None]
    assert len(second.listing.jobs().jobs) == 1


def test_a_job_without_split_completes_once(store: JobStore) -> None:
    """The last stage fills the job; once closed, no replay fills it again."""
    job_id = opened(store)
    assert store.tasks.record([done(job_id, "extract"), done(job_id, "analyse")]).closings == []
    (closing,) = store.tasks.record([done(job_id, "report"), done(job_id, "report")]).closings
    assert isinstance(closing, JobFilled)
    assert closing.job.job_id == job_id
    assert store.close([closing, closing]) == [None, None]
    first = store.records.get(job_id)
    assert store.close([closing]) == [None]
    assert store.tasks.record([done(job_id, "report")]).closings == []
    job = store.records.get(job_id)
    assert job
    assert first
    assert job.closed_at == first.closed_at
    assert job.state is JobState.COMPLETE
    assert job.closed_at


def test_many_stages_of_many_jobs_are_recorded_together(store: JobStore) -> None:
    """More outcomes than a request holds, some twice: all are recorded, and each job is closed."""
    jobs = [opened(store) for _ in range(30)]
    outcomes = [done(job_id, stage) for job_id in jobs for stage in ("extract", "report", "report")]
    recorded = store.tasks.record(outcomes)
    assert not any(recorded.errors)
    assert {closing.job.job_id for closing in recorded.closings if isinstance(closing, JobFilled)} == set(
        jobs
    )
    refs = [StageRef(job_id=job_id, stage=stage) for job_id in jobs for stage in PLAN.stages]
    checked = store.resumption.already_done(refs)
    assert checked.refs == {ref for ref in refs if ref.stage != "analyse"}


@pytest.mark.parametrize(
    ("result", "kept", "size"),
    [
        ('{"total":20}', True, 12),
        ('"' + 1_022 * "x" + '"', True, 1_024),
        ('"' + 1_023 * "x" + '"', False, 1_025),
    ],
)
def test_the_result_that_ends_a_path_is_in_the_jobs_record(
    store: JobStore, result: str, kept: bool, size: int
) -> None:
    """A small one; of a larger one its size. Lists of jobs and stages do not carry it."""
    job_id = opened(store)
    store.tasks.record([done(job_id, "extract"), replace(done(job_id, "report"), result=result)])
    assert store.records.results(job_id) == {
        "report": KeptResult(result=result if kept else None, size=size, task_id="task")
    }
    job = store.records.get(job_id)
    assert job is not None
    assert "result" not in job.ends["report"]
    assert store.records.results("nobody's") == {}


def test_a_job_under_a_key_is_marked_when_its_event_is_sent(store: JobStore) -> None:
    """The digest is kept as it was opened, and the mark is written once; a missing job gets no record."""
    job_id = uuid.uuid4().hex
    store.records.open([replace(new_job(job_id), digest="d")])
    store.records.open([replace(new_job(job_id), digest="other")])
    before = store.records.get_now([job_id])[job_id]
    assert (before.digest, before.is_sent) == ("d", False)
    assert store.records.mark_sent([job_id]) == store.records.mark_sent([job_id]) == []
    assert store.records.get_now([job_id])[job_id] == replace(before, is_sent=True)
    store.records.mark_sent(["nobody's"])
    assert store.records.get("nobody's") is None


def test_a_job_without_a_record_is_refused(store: JobStore) -> None:
    """A job that nobody opened, or that expired, cannot be told of its end."""
    (error,) = store.tasks.record([done("nobody's", "report")]).errors
    assert isinstance(error, ServiceRefusedError)
    assert "nobody's" in str(error)


# ─── Splits ───


@pytest.mark.parametrize("size", [1, 200, 100_000], ids=["inline", "one page", "many pages"])
def test_sealed_parts_come_back_as_they_were(store: JobStore, size: int) -> None:
    """Parts, data and header of any size are read as they were written, in order."""
    split = split_of(opened(store))
    pieces = [
        f'{{"n": {n}, "text": "{os.urandom(size // 2).hex()}"}}' for n in range(12 if size > 500 else 300)
    ]
    sealed = store.splits.seal(split, '{"h": 1}', '{"data": "é"}', iter(pieces))
    assert dict(store.splits.parts(sealed)) == dict(enumerate(pieces))
    again = store.splits.sealed(split)
    assert again == sealed
    assert (again.total, again.header, again.data) == (len(pieces), '{"h": 1}', '{"data": "é"}')
    assert store.splits.sealed_many([split, split_of("none")]) == {split: sealed}


def test_data_larger_than_an_item_is_kept(store: JobStore) -> None:
    """The data of the split's event may be as large as a Kafka message, however little it shrinks."""
    split = split_of(opened(store))
    data = f'"{os.urandom(500_000).hex()}"'
    store.splits.seal(split, "{}", data, ["1"])
    sealed = store.splits.sealed(split)
    assert sealed
    assert sealed.data == data


def test_a_seal_is_written_once(store: JobStore) -> None:
    """A second seal returns the parts of the first; the number of parts does not change."""
    split = split_of(opened(store))
    assert store.splits.sealed(split) is None
    first = store.splits.seal(split, "{}", "1", ["1", "2"])
    assert store.splits.seal(split, "{}", "1", (str(n) for n in range(1_000))) == first
    assert store.splits.sealed(split) == first


def test_a_generator_that_fails_seals_nothing(store: JobStore) -> None:
    """An exception of user code is raised unchanged, and the split is as before."""
    split = split_of(opened(store))

    def failing() -> Iterator[str]:
        yield from map(str, range(600))
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        store.splits.seal(split, "{}", "1", failing())
    assert store.splits.sealed(split) is None


def test_a_part_too_large_for_a_page_is_refused_for_ever(store: JobStore) -> None:
    """The message names the part and the limit."""
    with pytest.raises(ResultTooLargeError, match=r"Part 1 .*380,000"):
        store.splits.seal(split_of(opened(store)), "{}", "1", ["1", f'"{"x" * 380_000}"'])


def test_the_first_result_of_a_part_stays(store: JobStore) -> None:
    """Code that is not deterministic gives a part two results: the gather always reads the first."""
    job_id = opened(store)
    parts = parts_of(job_id, 300)
    assert not any(store.splits.put_results([result_of(part, f"{part.ordinal}") for part in parts]))
    assert store.splits.put_results([result_of(parts[7], '"other"')]) == [None]
    assert list(store.splits.results(split_of(job_id), 300)) == [str(ordinal) for ordinal in range(300)]


def test_a_result_too_large_for_an_item_is_refused_for_ever(store: JobStore) -> None:
    """The error names the limit; the other results of the batch are stored, also one just below it."""
    parts = parts_of(opened(store), 3)
    answers = store.splits.put_results(
        [
            result_of(parts[0], "1"),
            result_of(parts[1], f'"{"é" * 200_000}"'),
            result_of(parts[2], f'"{"x" * 389_998}"'),
        ]
    )
    assert (answers[0], answers[2]) == (None, None)
    assert isinstance(answers[1], ResultTooLargeError)
    assert "390,000" in str(answers[1])


def test_small_results_are_kept_in_the_counter(store: JobStore) -> None:
    """Counted and stored by one write, the first stays; a larger one is stored by itself; all are found."""
    job_id = opened(store)
    split, parts = split_of(job_id), parts_of(job_id, 4)
    assert store.splits.unsealed(split) == 2
    sealed = store.splits.seal(split, "{}", "1", map(str, range(4)), layout=2)
    assert store.splits.sealed(split) == sealed
    assert sealed.keeps

    def kept(ordinal: int, text: str) -> PartDone:
        return PartDone(ref=parts[ordinal], result=result_of(parts[ordinal], text, attempts=3))

    assert store.tasks.record([kept(2, '"é"'), kept(0, "0")]).closings == []
    assert store.splits.put_results([result_of(parts[1], f'"{"x" * 5_000}"')]) == [None]
    large = PartDone(ref=parts[1])
    (closing,) = store.tasks.record([kept(0, "other"), large, kept(3, "3"), kept(2, "other")]).closings
    assert closing == SplitFilled(split=split, total=4)
    assert [type(each) for each in store.tasks.record([kept(3, "other")]).closings] == [SplitFilled]
    assert store.close([closing]) == [None]
    assert store.tasks.record([kept(3, "other")]).closings == []
    assert list(store.splits.results(split, 4)) == ["0", f'"{"x" * 5_000}"', '"é"', "3"]
    page = store.parts.page(job_id, "analyse")
    assert page
    assert [(row.state, row.attempts) for row in page.parts] == [("done", each) for each in (3, 1, 3, 3)]


@pytest.mark.parametrize("missing", [0, 255, 256, 299])
def test_a_gather_never_runs_on_missing_results(store: JobStore, missing: int) -> None:
    """A result that is not there is an error, whichever it is."""
    job_id = opened(store)
    store.splits.put_results(
        [result_of(part, "1") for part in parts_of(job_id, 300) if part.ordinal != missing]
    )
    with pytest.raises(PermanentError, match=f"part {missing} of 300"):
        list(store.splits.results(split_of(job_id), 300))


def test_a_split_of_several_leaves_fills_once(store: JobStore) -> None:
    """700 parts, recorded in batches with repetitions: one gather, and none after it was sent."""
    job_id = opened(store)
    parts = [PartDone(ref=part) for part in parts_of(job_id, 700)]
    assert store.tasks.record(parts[:500]).closings == []
    assert store.tasks.record(parts[300:699] + parts[:20]).closings == []
    (closing,) = store.tasks.record([parts[699], parts[699], parts[3]]).closings
    assert closing == SplitFilled(split=split_of(job_id), total=700)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(store.close, [[closing], [closing]])) == [[None], [None]]
    assert store.close([closing, closing]) == [None, None]
    assert store.tasks.record(parts[690:]).closings == []
    assert store.resumption.already_done([split_of(job_id)]).refs == {split_of(job_id)}


def test_a_split_without_parts_is_closed_like_any(store: JobStore) -> None:
    """Zero parts go straight to the gather; a second delivery of the split sees that it was sent."""
    split = split_of(opened(store))
    sealed = store.splits.seal(split, "{}", "1", [])
    assert (sealed.total, list(store.splits.parts(sealed))) == (0, [])
    assert store.close([SplitFilled(split=split, total=0)]) == [None]
    assert store.resumption.already_done([split]).refs == {split}


# ─── Failures ───


def test_a_failed_job_completes_after_its_redrive(store: JobStore) -> None:
    """Done and failed parts end the job as failed; the redriven part completes it."""
    job_id = opened(store)
    parts = parts_of(job_id, 300)
    store.splits.seal(split_of(job_id), "{}", "1", map(str, range(300)))
    store.tasks.record([PartDone(ref=part) for part in parts[:299]])
    (closing,) = store.tasks.fail([failed(parts[299])]).closings
    assert isinstance(closing, JobFailed)
    assert closing.job.state is JobState.FAILED
    assert closing.job.failed == {"analyse"}
    progress = store.listing.progress(job_id)
    assert progress
    assert [(each.stage, each.state, each.done, each.failed, each.total) for each in progress[1]] == [
        ("extract", "not reached", 0, 0, 1),
        ("analyse", "failed", 299, 1, 300),
        ("report", "not reached", 0, 0, 1),
    ]
    (reason,) = store.listing.failures(job_id)
    assert (reason.stage, reason.part, reason.error, reason.attempts) == ("analyse", 299, "ValueError", 4)
    assert store.resumption.redrive([(parts[299], 0)]) == [None]
    assert list(store.listing.failures(job_id)) == []
    job = store.records.get(job_id)
    assert job
    assert (job.state, job.redrives, job.failed, job.closed_at) == (JobState.RUNNING, 1, frozenset(), None)
    assert [type(each) for each in store.tasks.record([PartDone(ref=parts[299])]).closings] == [SplitFilled]
    (filled,) = store.tasks.record([done(job_id, "analyse"), done(job_id, "report")]).closings
    assert isinstance(filled, JobFilled)
    assert store.close([filled]) == [None]
    refs: list[Ref] = [parts[299], parts[0], StageRef(job_id=job_id, stage="report")]
    again = list(zip(refs, (1, 0, 0), strict=True))
    assert all(isinstance(each, TaskOverError) for each in store.resumption.redrive(again))


def test_a_redriven_failure_is_proved_until_its_task_ends(store: JobStore) -> None:
    """A redrive hides it and keeps its digest; the next failure has its own, and a task that is done none."""
    job_id = opened(store)
    parts = parts_of(job_id, 2)
    store.splits.seal(split_of(job_id), "{}", "1", ["0", "1"])
    assert store.tasks.digests(parts) == {}
    store.tasks.fail([replace(failed(parts[0]), digest="first")])
    assert store.tasks.digests(parts) == {parts[0]: ("first", 0)}
    for _ in range(2):
        assert store.resumption.redrive([(parts[0], 0)]) == [None]
        assert list(store.listing.failures(job_id)) == []
        assert store.tasks.digests(parts) == {parts[0]: ("first", 0)}
    store.tasks.fail([replace(failed(parts[0], 1), digest="second")])
    assert store.tasks.digests(parts) == {parts[0]: ("second", 1)}
    assert [reason.generation for reason in store.listing.failures(job_id)] == [1]
    assert not store.resumption.is_over(parts[0])
    store.tasks.record([PartDone(ref=part) for part in parts])
    assert store.resumption.is_over(parts[0])
    (over,) = store.resumption.redrive([(parts[0], 1)])
    assert isinstance(over, TaskOverError)
    assert store.tasks.digests(parts) == {}


def test_what_cannot_be_reached_does_not_hold_a_job_open(store: JobStore) -> None:
    """The first stage fails: nothing after it will run, so the job has failed."""
    job_id = opened(store)
    first = FailedTask(
        ref=StageRef(job_id=job_id, stage="extract"),
        task_id="t",
        error="E",
        message="",
        attempts=1,
        failed_at=1.0,
    )
    (closing,) = store.tasks.fail([first, first]).closings
    assert isinstance(closing, JobFailed)
    (again,) = store.tasks.fail([first]).closings
    assert again == closing


# ─── Cancelling ───


def test_a_cancelled_job_is_never_anything_else(store: JobStore) -> None:
    """Tasks that end afterwards are recorded and counted, close nothing, and cannot be redriven."""
    job_id = opened(store)
    parts = parts_of(job_id, 4)
    store.splits.seal(split_of(job_id), "{}", "1", map(str, range(4)))
    store.tasks.record([done(job_id, "extract"), PartDone(ref=parts[0])])
    store.tasks.fail([failed(parts[1])])
    job = store.cancel(job_id)
    assert job
    assert (job.state, job.cancelled_at, job.closed_at) == (
        JobState.CANCELLED,
        job.closed_at,
        job.cancelled_at,
    )
    assert store.cancel(job_id) == store.records.get(job_id) == job
    progress = store.listing.progress(job_id)
    assert progress
    assert [
        (each.stage, each.state, each.done, each.failed, each.cancelled, each.total) for each in progress[1]
    ] == [
        ("extract", "done", 1, 0, 0, 1),
        ("analyse", "cancelled", 1, 1, 2, 4),
        ("report", "cancelled", 0, 0, 1, 1),
    ]
    assert store.tasks.record([PartDone(ref=parts[2]), done(job_id, "report")]).closings == []
    assert store.tasks.fail([failed(parts[3])]).closings == []
    answers = store.resumption.redrive([(parts[1], 0), (parts[3], 0)])
    assert [type(each) for each in answers] == [TaskOverError, TaskOverError]
    assert (store.records.recheck(job_id), store.resumption.resume(job_id)) == ([], [])
    after = store.records.get(job_id)
    assert after
    assert (after.state, after.cancelled_at) == (JobState.CANCELLED, job.cancelled_at)
    assert [each.job_id for each in store.listing.jobs(JobState.CANCELLED).jobs] == [job_id]
    assert store.listing.open_before(time.time() + 60).jobs == []


def test_what_has_ended_is_not_cancelled(store: JobStore) -> None:
    """A job that is complete, about to be, or failed stays as it is; one that is not there is none."""
    full, failing = opened(store), opened(store)
    (closing,) = store.tasks.record([done(full, "report")]).closings
    assert isinstance(closing, JobFilled)
    for state in (JobState.RUNNING, JobState.COMPLETE):
        job = store.cancel(full)
        assert job
        assert job.state is state
        assert store.close([closing]) == [None]
    store.tasks.fail([failed(part) for part in parts_of(failing, 1)])
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


def test_cancelled_jobs_are_found_as_earlier_versions_wrote_them(
    services: Services, make_settings: MakeSettings
) -> None:
    """The entries of the list outlive a deployment: key, order and expiry."""
    settings = make_settings(services)
    store = JobStore(settings)
    store.schema.provision()
    client, name = dynamodb_client(), settings.dynamodb_table
    pk = {"S": f"{settings.service_name}/C"}
    entry = {"pk": pk, "sk": {"S": "1700000000.000#j1"}, "exp": {"N": "1703888000"}}
    client.put_item(TableName=name, Item=entry)
    assert store.cancelled_since(1_699_999_999) == {"j1"}
    assert store.cancelled_since(1_700_000_001) == set()
    client.delete_item(TableName=name, Key={"pk": pk, "sk": entry["sk"]})
    job_id = opened(store)
    store.cancel(job_id)
    (written,) = client.query(
        TableName=name, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": pk}
    )["Items"]
    assert written.keys() == {"pk", "sk", "exp"}
    assert re.fullmatch(rf"\d{{10}}\.\d{{3}}#{job_id}", written["sk"]["S"])


# ─── Lists ───


def test_jobs_are_listed_newest_first_page_by_page(store: JobStore) -> None:
    """Open and closed jobs of several days make one list; each is on one page, once."""
    now = time.time()
    ids = [opened(store, now - age * DAY / 2) for age in range(12)]
    for job_id in ids[2:6]:
        (closing,) = store.tasks.record([done(job_id, "report")]).closings
        assert isinstance(closing, JobFilled)
        assert store.close([closing]) == [None]
    for job_id in ids[6:8]:
        store.tasks.fail([failed(part) for part in parts_of(job_id, 2)])
    seen: list[str] = []
    before = None
    while True:
        page = store.listing.jobs(limit=5, before=before)
        seen += [job.job_id for job in page.jobs]
        before = page.next
        if before is None:
            break
    assert seen == ids
    assert [job.job_id for job in store.listing.jobs(JobState.COMPLETE).jobs] == ids[2:6]
    assert [job.job_id for job in store.listing.jobs(JobState.FAILED).jobs] == ids[6:8]
    assert [job.job_id for job in store.listing.jobs(JobState.RUNNING, limit=3).jobs] == ids[:2] + ids[8:9]


def test_progress_counts_every_part_of_a_large_split(store: JobStore) -> None:
    """Full leaves are counted without being read, the others as they are."""
    job_id = opened(store)
    parts = parts_of(job_id, 1_000)
    store.splits.seal(split_of(job_id), "{}", "1", map(str, range(1_000)))
    store.tasks.record([PartDone(ref=part) for part in (*parts[:256], *parts[300:310], *parts[990:])])
    store.tasks.fail([failed(parts[700])])
    progress = store.listing.progress(job_id)
    assert progress
    analyse = progress[1][1]
    assert (analyse.state, analyse.done, analyse.failed, analyse.total) == ("running", 276, 1, 1_000)
    store.tasks.record([done(job_id, "extract")])
    progress = store.listing.progress(job_id)
    assert progress
    extract = progress[1][0]
    assert (extract.state, extract.run_seconds, extract.worker) == ("done", 1.5, "worker@host")
    assert store.listing.progress("nobody's") is None


def test_the_parts_of_a_large_split_are_read_page_by_page(store: JobStore) -> None:
    """Each part is on one page, with how it ended; a page may lie across leaves."""
    job_id = opened(store)
    parts = parts_of(job_id, 600)
    assert store.parts.page(job_id, "analyse") is None
    store.splits.seal(split_of(job_id), '{"h": 1}', "1", map(str, range(600)))
    store.splits.put_results([result_of(part, "1", attempts=2) for part in parts[250:260]])
    store.tasks.record([PartDone(ref=part) for part in parts[250:261]])
    store.tasks.fail([failed(parts[261])])
    rows: dict[int, PartRow] = {}
    after, pages = None, 0
    while pages == 0 or after is not None:
        page = store.parts.page(job_id, "analyse", after=after, limit=255)
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
    last = store.parts.page(job_id, "analyse", after=259, limit=3)
    assert last
    assert [row.state for row in last.parts] == ["done", "failed", "cancelled"]
    assert store.parts.page(job_id, "report") is None
    beyond = store.parts.page(job_id, "analyse", after=599)
    assert beyond
    assert (beyond.parts, beyond.next) == ((), None)


# ─── Attempts ───


def test_attempts_are_counted_for_each_message(store: JobStore) -> None:
    """A receive count counts once; the same task redriven as another message starts anew."""
    assert [store.attempts.add("task", "message", count) for count in (1, 1, 3)] == [1, 1, 2]
    assert store.attempts.add("task", "redriven", 1) == 1
    messages = [("task", "message"), ("task", "redriven"), ("task", "never")]
    found = store.attempts.look_up(messages)
    assert [found[message].count for message in messages] == [2, 1, 0]


def test_a_verdict_is_kept_with_the_attempts(store: JobStore) -> None:
    """It is that message's own: the same task redriven as another message may be run."""
    verdict = Verdict(error="E", message="never", traceback="tb")
    assert store.attempts.add("judged", "message", 1, verdict) == 1
    assert store.attempts.add("judged", "message", 2) == 2
    found = store.attempts.look_up([("judged", "message"), ("judged", "redriven")])
    assert found["judged", "message"] == PastAttempts(count=2, verdict=verdict)
    assert found["judged", "redriven"] == PastAttempts()


# ─── Costs ───


class Meter:
    """The process's client, which adds up the write units that its requests consume."""

    def __init__(self) -> None:
        self.units = 0.0

    def __getattr__(self, name: str) -> Any:
        call = getattr(dynamodb_client(), name)
        return (
            partial(self._metered, call) if name in ("put_item", "update_item", "batch_write_item") else call
        )

    def _metered(self, call: Callable[..., Any], **fields: Any) -> Any:
        answer = call(**fields, ReturnConsumedCapacity="TOTAL")
        consumed = answer["ConsumedCapacity"]
        tables = consumed if isinstance(consumed, list) else [consumed]
        self.units += sum(each["CapacityUnits"] for each in tables)
        return answer


def test_the_units_of_writes_are_told(store: JobStore) -> None:
    """No operation is refused for asking, and what single writes take of the table is counted."""
    units = partial(
        metrics.REGISTRY.get_sample_value, "pipeline_table_write_units_total", {"resource": "table"}
    )
    before = units() or 0
    job_id = opened(store)
    store.tasks.record([done(job_id, stage) for stage in PLAN.stages])
    assert (units() or 0) > before


def test_a_task_costs_no_more_write_units_than_promised(
    local_services: Services, make_settings: MakeSettings
) -> None:
    """At most 3 a task in jobs of three stages; at most 0.25 a part in a large split, beside its result.

    Parts end about in order, as those of concurrent workers do, and are recorded ten at a time.
    """
    settings, meter = make_settings(local_services), Meter()
    store = JobStore(settings, table=Table(settings.dynamodb_table, lambda: meter))  # type: ignore[arg-type, return-value]
    store.schema.provision()
    job_id = opened(store)
    (closing,) = store.tasks.record([done(job_id, stage) for stage in PLAN.stages]).closings
    assert isinstance(closing, JobFilled)
    assert store.close([closing]) == [None]
    assert 0 < meter.units <= 3 * 3
    meter.units = 0
    total = 2_560
    store.splits.seal(
        split_of(job_id), "{}", "1", (f'{{"path": "/a/file", "offset": {n}000}}' for n in range(total))
    )
    parts = [PartDone(ref=part) for part in parts_of(job_id, total)]
    order = sorted(parts, key=lambda part: part.ref.ordinal + random.Random(part.ref.ordinal).uniform(0, 100))
    for start in range(0, total, 10):
        store.tasks.record(order[start : start + 10])
    assert 0 < meter.units / total <= 0.25
