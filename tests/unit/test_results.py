"""The result backend over a table in memory: what it asks, what it waits for, and what it refuses."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signature, states
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import GroupResult

from pipeline.celery import make_app
from pipeline.errors import PermanentError, ServiceUnavailableError
from pipeline.jobs import JobStore, RecordedResult
from pipeline.jobs.table import Table
from pipeline.results import waiting
from pipeline.results.asyncresult import TaskResult
from pipeline.results.backend import Backend, UnstorableResultError
from pipeline.results.report import reporting
from pipeline.results.waiting import WINDOW
from tests.builders import settings
from tests.fakes.dynamodb import FakeDynamoDB


class Counting(FakeDynamoDB):
    """A table that counts requests, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.is_away = False
        self.on_read: Callable[[], None] = lambda: None

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.endswith(("_item", "_statement")):
            return value

        def counted(**fields: Any) -> Any:
            self.calls.append(name)
            if name == "batch_get_item":
                self.on_read()
                if self.is_away:
                    raise ServiceUnavailableError("away")
            return value(**fields)

        return counted


@pytest.fixture
def table() -> Counting:
    return Counting()


def app_on(table: Counting, **changes: Any) -> Celery:
    made = make_app(settings(**changes))
    made.pipeline.job_store = JobStore(
        made.pipeline.settings,
        table=Table("jobs", lambda: table),  # type: ignore[arg-type,return-value]
    )
    return made


@pytest.fixture
def app(table: Counting) -> Celery:
    """An app that keeps results."""
    return app_on(table, results=True)


@pytest.fixture
def backend(app: Celery) -> Backend:
    made: Backend = app.backend
    return made


def end(backend: Backend, *ids: str) -> None:
    """Record successes as settlement does."""
    report = backend.report(states.SUCCESS, 1)
    kept = [
        RecordedResult(task_id=each, state=report.state, text=report.text, keep_seconds=None) for each in ids
    ]
    assert backend.records.put_many(kept) == [None] * len(ids)


# ─── Reports ───


def test_the_running_task_reports_and_writes_nothing(backend: Backend, table: Counting) -> None:
    """Settlement writes it; what the run says of another task is written at once."""
    with reporting("t") as running:
        backend.mark_as_done("t", 7, Context(id="t"))
        assert not table.calls
        backend.mark_as_done("other", 8, Context(id="other"))
    report = running.told(states.SUCCESS)
    assert report
    assert report.kept
    assert report.keep_seconds == 86_400
    assert running.told(states.FAILURE) is None
    assert backend.records.get("t") is None
    assert backend.get_result("other") == 8


@pytest.mark.parametrize("is_part", [False, True])
def test_a_task_without_a_result_reports_for_its_chord_only(backend: Backend, is_part: bool) -> None:
    """The chord needs what it returned, whoever else asks."""
    request = Context(id="t", chord={"task": "body"} if is_part else None)
    with reporting("t") as running:
        backend.mark_as_done("t", 7, request, store_result=False)
    report = running.told(states.SUCCESS)
    assert (report is not None) is is_part
    assert report is None or not report.kept


def test_a_failed_run_ends_nothing_else(backend: Backend, table: Counting) -> None:
    """It may be tried again: chain and errbacks wait for settlement."""
    behind = {"task": "b", "args": [], "kwargs": {}, "options": {"task_id": "behind"}}
    request = Context(
        id="t", chain=[behind], errbacks=[{"task": "e", "args": [], "kwargs": {}, "options": {}}]
    )
    with reporting("t") as running:
        backend.mark_as_failure("t", ValueError("no"), "tb", request)
    assert running.told(states.FAILURE)
    assert not table.calls
    backend.fail_chain(request.chain, {"exc_type": "ValueError", "exc_message": ["no"]}, "tb")
    assert backend.get_state("behind") == states.FAILURE


def test_the_groups_behind_a_failed_task_fail_with_it(backend: Backend) -> None:
    """All tasks of a group, and of one that is the body of a chord; none that keeps no result."""

    def behind(task_id: str, **options: Any) -> Any:
        return signature("behind", task_id=task_id, **options)

    tasks = group(behind("a"), chain(behind("b"), behind("c")), group(behind("d")), app=backend.app)
    body = group(behind("e"), behind("f", ignore_result=True), app=backend.app)
    links = json.loads(json.dumps([tasks, chord([behind("g")], chord([behind("h")], body))]))
    backend.fail_chain(links, {"exc_type": "ValueError", "exc_message": ["no"]}, "tb")
    failed = {each for each in "abcdefgh" if backend.get_state(each) == states.FAILURE}
    assert failed == {"a", "c", "d", "e"}


def test_what_a_shutdown_cuts_off_is_not_written(backend: Backend, table: Counting) -> None:
    """Celery calls it a retry; the message just comes again."""
    backend.mark_as_retry("t", ValueError("cancelled"))
    assert not table.calls


@pytest.mark.parametrize("value", [object(), "z" * 400_000])
def test_what_cannot_be_stored_is_permanent(backend: Backend, value: Any) -> None:
    """Another run would return the same."""
    with pytest.raises(UnstorableResultError) as caught:
        backend.report(states.SUCCESS, value)
    assert isinstance(caught.value, PermanentError)


def test_a_failure_with_large_arguments_is_told_all_the_same(backend: Backend) -> None:
    """Cut to what the table takes."""
    report = backend.report(states.FAILURE, ValueError("z" * 400_000))
    assert len(report.text) < 10_000


def test_an_exception_that_would_end_its_reader_is_a_plain_one(backend: Backend) -> None:
    """SystemExit in a web server would end it."""
    backend.store_result("t", SystemExit(3), states.FAILURE)
    failure = backend.get_result("t")
    assert isinstance(failure, Exception)
    assert (type(failure).__name__, failure.args) == ("SystemExit", (3,))


def test_failures_may_be_kept_longer(app: Celery, backend: Backend) -> None:
    """``result_expires`` and ``result_failure_expires`` are Celery's."""
    app.conf.result_failure_expires = 7
    assert backend.report(states.FAILURE, ValueError()).keep_seconds == 7
    backend.expires = 0
    assert backend.report(states.SUCCESS, 1).keep_seconds is None


# ─── Waiting ───


def test_a_large_group_is_read_once_and_not_at_each_poll(
    app: Celery, backend: Backend, table: Counting
) -> None:
    """While none is there, one request a poll; then one for each hundred."""
    ids = [f"t-{number}" for number in range(5 * WINDOW)]
    polls = 0

    def read() -> None:
        nonlocal polls
        polls += 1
        if polls == 4:
            end(backend, *ids)

    table.on_read = read
    result = GroupResult("g", [app.AsyncResult(each) for each in ids], app=app)
    assert result.get(timeout=60, interval=0.05) == [1] * len(ids)
    assert polls == 4 + 4


def test_the_pauses_grow_to_less_than_the_interval(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a result is seen within the interval, read included."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(pauses))
    with pytest.raises(CeleryTimeoutError):
        backend.wait_for("t", timeout=10)
    assert pauses[0] == waiting.FIRST_PAUSE
    assert max(pauses) == pytest.approx(0.4)
    assert sum(pauses) == pytest.approx(10)


def test_a_table_that_is_away_is_waited_for_within_the_timeout(backend: Backend, table: Counting) -> None:
    """Then its error says more than a timeout."""
    table.is_away = True
    with pytest.raises(ServiceUnavailableError):
        backend.wait_for("t", timeout=0.1)
    reads: list[int] = []

    def come_back() -> None:
        reads.append(1)
        table.is_away = len(reads) < 3

    table.on_read = come_back
    end(backend, "t")
    assert backend.wait_for("t", timeout=60)["result"] == 1
    assert len(reads) == 3


def test_to_ask_once_asks_once(backend: Backend, table: Counting) -> None:
    """A timeout of zero."""
    began = time.monotonic()
    with pytest.raises(CeleryTimeoutError):
        backend.wait_for("t", timeout=0)
    assert table.calls == ["batch_get_item"]
    assert time.monotonic() - began < 60


# ─── Where nothing is kept ───


def quiet(table: Counting) -> Celery:
    return app_on(table)


def asks(result: TaskResult) -> list[Callable[[], Any]]:
    return [
        lambda: result.get(timeout=0),
        lambda: result.state,
        result.ready,
        lambda: result.children,
        lambda: GroupResult("g", [result], app=result.app).get(timeout=0),
    ]


@pytest.mark.parametrize("ignored", [None, True])
def test_a_result_that_nobody_keeps_is_refused(table: Counting, ignored: bool | None) -> None:
    """To wait for ever would look like a slow task; the error names the setting, and no call is made."""
    result = quiet(table).AsyncResult("t")
    if ignored:
        result.ignored = True
    for ask in asks(result):
        with pytest.raises(NotImplementedError, match="RESULTS=true"):
            ask()
    assert not table.calls


def test_others_see_that_a_published_task_keeps_no_result(table: Counting, app: Celery) -> None:
    """Flower asks for the state of what it publishes, unless the backend is Celery's own without results."""
    for made, is_disabled in ((quiet(table), True), (app, False)):
        result = made.AsyncResult("t")
        result.ignored = True
        assert isinstance(result.backend, DisabledBackend) is is_disabled


def test_one_task_may_keep_its_own(table: Counting) -> None:
    """By its id, or as it was published."""
    app = quiet(table)
    by_publish = app.AsyncResult("t")
    by_publish.ignored = False
    assert by_publish.state == states.PENDING

    @app.task(name="keeps", ignore_result=False, shared=False)  # type: ignore[untyped-decorator]
    def keeps() -> None: ...

    assert app.AsyncResult("t").state == states.PENDING
    unkept = app.AsyncResult("t")
    unkept.ignored = True
    with pytest.raises(NotImplementedError):
        unkept.get()


def test_in_an_app_with_results_an_ignored_one_is_none(app: Celery) -> None:
    """As in Celery."""
    result = app.AsyncResult("t")
    result.ignored = True
    assert result.get() is None
    assert GroupResult("g", [result], app=app).get() == [None]


# ─── Eager tasks ───


def test_an_eager_task_has_its_result_and_calls_its_errbacks(app: Celery, table: Counting) -> None:
    """Without the table; with ``task_store_eager_result`` in it."""
    called: list[str] = []

    @app.task(name="fails", shared=False)  # type: ignore[untyped-decorator]
    def fails() -> None:
        raise ValueError("no")

    @app.task(name="errback", shared=False)  # type: ignore[untyped-decorator]
    def errback(task_id: str) -> None:
        called.append(task_id)

    app.conf.task_always_eager = True
    result = fails.apply_async(link_error=errback.s())
    assert (result.state, str(result.result)) == (states.FAILURE, "no")
    assert called == [result.id]
    assert not table.calls
    app.conf.task_store_eager_result = True
    fails.store_eager_result = True
    fails.__trace__ = None
    kept = fails.apply_async()
    assert app.AsyncResult(kept.id).state == states.FAILURE


def test_the_event_loop_of_a_worker_waits_for_no_state(backend: Backend, table: Counting) -> None:
    """Celery's ``revoke`` asks there, for each task; a table that is away would end the worker's leases."""
    backend.serve_event_loop()
    assert backend.get_state("t") == states.STARTED
    assert not table.calls
