"""What settlement records of plain tasks whose results are kept, over a table in memory."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, _state, signature, states

from pipeline.celery import make_app
from pipeline.jobs import JobStore
from pipeline.jobs.table import Table
from pipeline.patience import Patience
from pipeline.results.report import Report
from pipeline.wire.taskmessage import HEADER, TaskHeader
from pipeline.worker.child.outcome import Discarded, Failed, Outcome, Succeeded
from pipeline.worker.settle.results import ResultRecorder
from pipeline.worker.settle.work import Work
from tests.builders import lease, pipeline_header, settings, stage_lease
from tests.fakes.dynamodb import FakeDynamoDB

KEPT = {"ignore_result": False}
FAILURE = Failed(error="shop.errors.SoldOutError", message="no more", traceback="where", permanent=True)


@pytest.fixture
def table() -> FakeDynamoDB:
    return FakeDynamoDB()


@pytest.fixture
def app(table: FakeDynamoDB) -> Iterator[Celery]:
    """The current app of this process, over the table."""
    before = _state._tls.current_app
    made = make_app(settings())
    made.pipeline.job_store = JobStore(
        made.pipeline.settings,
        table=Table("jobs", lambda: table),  # type: ignore[arg-type,return-value]
    )
    made.set_current()
    yield made
    _state._tls.current_app = before


@pytest.fixture
def recorder(app: Celery) -> ResultRecorder:
    return ResultRecorder(app.pipeline.job_store.results, Patience())


def report(app: Celery, state: str, value: Any = None, kept: bool = True) -> Report:
    made: Report = app.backend.report(state, value, kept=kept)
    return made


def work(outcome: Outcome, headers: Any = KEPT, embed: Any = None) -> Work:
    return Work(lease=lease("a", headers, body=[[], {}, embed]), outcome=outcome)


def test_ends_are_recorded_with_their_message(app: Celery, recorder: ResultRecorder) -> None:
    """So that this message, and no other of the task, is known to be done."""
    done = Succeeded(result=None, summary="", seconds=0, report=report(app, states.SUCCESS, 7))
    assert recorder.record([work(done)]) == [None]
    found = app.pipeline.job_store.results.get("t-a")
    assert found
    assert (found.state, found.message_id) == (states.SUCCESS, "a")
    assert app.AsyncResult("t-a")._ignored is None
    assert app.backend.get_task_meta("t-a")["result"] == 7


def test_what_keeps_no_result_costs_nothing(
    app: Celery, recorder: ResultRecorder, table: FakeDynamoDB
) -> None:
    """A task without one, a chord's part without one, a stage's task."""
    part = report(app, states.SUCCESS, kept=False)
    quiet = [
        work(Succeeded(result=None, summary="", seconds=0)),
        work(Succeeded(result=None, summary="", seconds=0, report=part)),
        work(Discarded(reason="ignored")),
        Work(lease=stage_lease(), outcome=Succeeded(result="1", summary="", seconds=0)),
    ]
    assert recorder.record(quiet) == [None] * 4
    header = TaskHeader.model_validate(pipeline_header())
    for each in (
        work(FAILURE, {"ignore_result": True}),
        work(FAILURE, {**KEPT, "id": header.task_id, "task": "strict", HEADER: pipeline_header()}),
        Work(lease=lease("b", body="no task"), outcome=FAILURE),
    ):
        recorder.retry(each)
        recorder.fail(each)
    assert not table.items


def test_a_run_that_was_killed_fails_with_what_is_known(app: Celery, recorder: ResultRecorder) -> None:
    """Class, message and traceback, as the dead letter has them."""
    recorder.retry(work(FAILURE))
    assert app.backend.get_state("t-a") == states.RETRY
    recorder.fail(work(FAILURE))
    meta = app.backend.get_task_meta("t-a")
    assert (meta["status"], meta["traceback"]) == (states.FAILURE, "where")
    assert (type(meta["result"]).__name__, meta["result"].args) == ("SoldOutError", ("no more",))


def test_a_failed_run_is_told_in_its_own_words(app: Celery, recorder: ResultRecorder) -> None:
    """The arguments of the exception; RETRY while it goes on, and no end is recorded by then."""
    told = Failed(error="E", message="cut", report=report(app, states.FAILURE, KeyError("k", 2)))
    recorder.retry(work(told))
    meta = app.backend.get_task_meta("t-a")
    assert (meta["status"], meta["result"].args, meta["date_done"]) == (states.RETRY, ("k", 2), None)
    recorder.fail(work(told))
    assert app.backend.get_task_meta("t-a")["date_done"]


def test_those_behind_it_in_its_chain_fail(app: Celery, recorder: ResultRecorder) -> None:
    """Also if the failure is recorded twice."""
    chain = [signature(name, task_id=f"t-{name}") for name in ("c", "b")]
    for _ in range(2):
        recorder.fail(work(FAILURE, embed={"chain": chain}))
    for task_id in ("t-a", "t-b", "t-c"):
        meta = app.backend.get_task_meta(task_id)
        assert (meta["status"], str(meta["result"])) == (states.FAILURE, "no more")


@pytest.mark.parametrize("stores", [False, True])
def test_errors_may_be_kept_alone(
    app: Celery, recorder: ResultRecorder, table: FakeDynamoDB, stores: bool
) -> None:
    """``store_errors_even_if_ignored`` is Celery's."""

    @app.task(name="note", shared=False, store_errors_even_if_ignored=stores)  # type: ignore[untyped-decorator]
    def note() -> None: ...

    recorder.fail(work(FAILURE, {"ignore_result": True}))
    assert bool(table.items) is stores


@pytest.mark.parametrize("results", [False, True])
def test_a_message_that_says_nothing_is_as_the_app_says(
    app: Celery, recorder: ResultRecorder, table: FakeDynamoDB, results: bool
) -> None:
    """One that was sent by the name of its task."""
    app.conf.task_ignore_result = not results
    recorder.fail(work(FAILURE, {"ignore_result": None}))
    assert bool(table.items) is results
