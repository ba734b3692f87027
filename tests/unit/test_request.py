"""Every way in which Celery lets a task end leads to settlement, once, and none deletes the message."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, WorkerLostError
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.signals import task_failure
from celery.worker import state
from celery.worker.request import create_request_cls

from pipeline.clock import boottime
from pipeline.transport.intake import Intake
from pipeline.transport.kombutransport import Message
from pipeline.transport.lease import LONGEST_HOLD, Lease, Phase
from pipeline.wire.taskmessage import HEADER
from pipeline.worker.child.outcome import (
    Discarded,
    Failed,
    Outcome,
    Returned,
    Succeeded,
)
from pipeline.worker.child.runoptions import RunOptions
from pipeline.worker.request import LONGEST_RUN, request_class
from pipeline.worker.settle.work import Work
from tests.builders import lease

LIMIT = 60


def note() -> None:
    """Never run here."""


class Worker:
    """A worker around one message: a real intake, a pool that only takes, a settlement that only lists."""

    def __init__(self) -> None:
        self.app = Celery("test", set_as_current=False)
        self.app.conf.task_time_limit = LIMIT
        self.app.conf.task_acks_late = True
        # Celery would give it to every app of this process otherwise.
        self.task = self.app.task(name="note", shared=False)(note)
        self.app.finalize()
        self.intake = Intake(on_ready=lambda: None, on_unwanted=lambda _: None)
        self.settled: list[Work] = []
        self.pool_kills = True
        self.time_limit = 300.0
        self.cancelled_jobs: set[str] = set()
        self.given: list[dict[str, Any]] = []
        self.pool = SimpleNamespace(apply_async=self._apply, terminate_job=lambda *_: None)

    def settle(self, work: Work) -> None:
        self.settled.append(work)

    def request(self, more: Any = None, *, requested_at: float | None = None, **headers: Any) -> Any:
        """The message, delivered, with these headers and ``more``."""
        now = boottime() if requested_at is None else requested_at
        whole = {"id": "t-1", "retries": 0, **headers, **(more or {})}
        self.intake.hold([lease(headers=whole, deadline=boottime() + 30, receive_count=4, requested_at=now)])
        taken = self.intake.take()
        assert taken is not None
        assert taken.envelope is not None
        payload = taken.envelope.delivered_as(taken.tag)
        bound = request_class(cast(Any, self))
        kind = create_request_cls(bound, self.task, self.pool, "host", None, app=self.app)
        return kind(Message(payload, SimpleNamespace(decode_body=lambda body, _: body)), app=self.app)

    @property
    def lease(self) -> Lease:
        return self.intake._held["m-1"]

    @property
    def options(self) -> RunOptions:
        options: RunOptions = self.given[0]["args"][-1]
        return options

    @property
    def outcome(self) -> Outcome:
        (work,) = self.settled
        return work.outcome

    def _apply(self, _: Any, **given: Any) -> None:
        self.given.append(given)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    with patch.object(state, "revoked", set()):
        yield worker


def error_info(error: BaseException) -> ExceptionInfo:
    try:
        raise error
    except BaseException:  # noqa: BLE001 - whatever the test gives
        return ExceptionInfo()


# ─── The start ───


def test_a_run_is_given_its_limits_and_holds_its_lease_beyond_them(worker: Worker) -> None:
    """The default limit; until it must be over, with time to start and to be killed."""
    worker.request().execute_using_pool(worker.pool)
    assert worker.given[0]["timeout"] == worker.options.limit == LIMIT
    assert worker.options.attempt == 1
    assert worker.options.mark is None
    assert worker.lease.run_until is not None
    assert worker.options.start_before + LIMIT < worker.lease.run_until < boottime() + 300


def test_a_messages_own_limits_count_up_to_what_sqs_holds(worker: Worker) -> None:
    """Eleven hours at most."""
    worker.request(timelimit=[1_000_000, 5]).execute_using_pool(worker.pool)
    assert worker.given[0]["timeout"] == LONGEST_RUN
    assert worker.given[0]["soft_timeout"] == 5


def test_a_pool_that_cannot_kill_has_no_limit(worker: Worker) -> None:
    """Its runs hold their lease as long as SQS lets them: else a long one would run twice."""
    worker.pool_kills = False
    worker.request().execute_using_pool(worker.pool)
    assert worker.given[0]["timeout"] is None
    assert worker.options.limit is None
    assert worker.lease.run_until == worker.lease.last_end


def test_a_suspect_is_marked_before_it_runs(worker: Worker) -> None:
    """With the receive that it is an attempt of."""
    request = worker.request()
    worker.lease.suspect = True
    request.execute_using_pool(worker.pool)
    assert worker.options.mark == ("m-1", 4)


def test_a_lease_that_may_have_lapsed_is_not_started(worker: Worker) -> None:
    """It goes back; the worker's slot is freed."""
    request = worker.request()
    worker.lease.deadline = boottime() + 0.5
    with pytest.raises(TaskRevokedError):
        request.execute_using_pool(worker.pool)
    assert not worker.given
    assert worker.outcome == Returned()


def test_a_message_held_too_long_to_last_for_the_run_is_not_started(worker: Worker) -> None:
    """SQS would let it go in the middle: it goes back and is received anew."""
    request = worker.request(requested_at=boottime() - LONGEST_HOLD + 30)
    with pytest.raises(TaskRevokedError):
        request.execute_using_pool(worker.pool)
    assert worker.outcome == Returned()


def test_a_delivery_that_was_taken_back_is_not_started(worker: Worker) -> None:
    """Its connection was lost meanwhile: it is delivered anew."""
    request = worker.request()
    worker.intake.restore()
    with pytest.raises(TaskRevokedError):
        request.execute_using_pool(worker.pool)
    assert not worker.settled
    assert worker.lease.phase is Phase.WAITING


def test_a_revoked_task_is_not_started_and_deleted(worker: Worker) -> None:
    """A plain one; a stage's is a failure of its job that a person can see."""
    with patch("celery.worker.request.revoked_tasks", {"t-1"}):
        with pytest.raises(TaskRevokedError):
            worker.request().execute_using_pool(worker.pool)
        assert worker.outcome == Discarded(reason="revoked")
        worker.intake.forget([worker.lease])
        worker.settled.clear()
        with pytest.raises(TaskRevokedError):
            worker.request({HEADER: {}}).execute_using_pool(worker.pool)
    assert isinstance(worker.outcome, Failed)
    assert worker.outcome.permanent


# ─── Ends ───


def test_whichever_end_comes_first_counts(worker: Worker) -> None:
    """billiard reports a hard limit twice, and a result may cross it."""
    request = worker.request()
    request.execute_using_pool(worker.pool)
    success = Succeeded(result=None, summary="", seconds=0)
    request.on_success(success)
    request.on_timeout(False, LIMIT)
    request.on_failure(error_info(WorkerLostError("gone")))
    assert worker.outcome is success


def test_a_hard_limit_is_an_attempt(worker: Worker) -> None:
    """Once."""
    request = worker.request()
    request.execute_using_pool(worker.pool)
    request.on_timeout(False, LIMIT)
    request.on_failure(error_info(WorkerLostError("gone")))
    assert isinstance(worker.outcome, Failed)
    assert worker.outcome.error.endswith("TimeLimitExceeded")
    assert not worker.outcome.permanent


def test_a_killed_run_calls_the_hooks_of_its_task(worker: Worker) -> None:
    """Its child could not: on_failure, after_return and task_failure, once each, whatever one raises."""
    called: list[tuple[str, str, tuple[Any, ...]]] = []

    def on_failure(exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        called.append(("on_failure", type(exc).__name__, (task_id, args, kwargs, einfo.type.__name__)))
        raise ValueError("in a hook")

    def after_return(status: str, retval: Any, task_id: str, *_: Any) -> None:
        called.append(("after_return", type(retval).__name__, (task_id, status)))

    def receive(sender: Any, task_id: str, exception: Any, **_: Any) -> None:
        called.append(("task_failure", type(exception).__name__, (task_id, sender.name)))

    worker.task.on_failure, worker.task.after_return = on_failure, after_return
    task_failure.connect(receive)
    try:
        request = worker.request()
        request.execute_using_pool(worker.pool)
        request.on_timeout(False, LIMIT)
        request.on_failure(error_info(WorkerLostError("gone")))
    finally:
        task_failure.disconnect(receive)
    error = "TimeLimitExceeded"
    assert called == [
        ("on_failure", error, ("t-1", [], {}, error)),
        ("after_return", error, ("t-1", "FAILURE")),
        ("task_failure", error, ("t-1", "note")),
    ]
    assert isinstance(worker.outcome, Failed)


def test_a_killed_run_took_as_long_as_it_ran(worker: Worker) -> None:
    """From when its child accepted it."""
    request = worker.request()
    request.execute_using_pool(worker.pool)
    request.time_start = time.time() - 42
    request.on_timeout(False, LIMIT)
    assert isinstance(worker.outcome, Failed)
    assert 42 <= worker.outcome.seconds <= time.time() - request.time_start


def test_a_time_limit_of_none_is_that_of_the_service(worker: Worker) -> None:
    """None is Celery's own default; a lease must end all the same."""
    worker.app.conf.task_time_limit = worker.task.time_limit = None
    worker.request().execute_using_pool(worker.pool)
    assert worker.given[0]["timeout"] == worker.time_limit


def test_a_soft_limit_ends_nothing_by_itself(worker: Worker) -> None:
    """The task decides."""
    request = worker.request()
    request.execute_using_pool(worker.pool)
    request.on_timeout(True, 5)
    assert not worker.settled


@pytest.mark.parametrize(
    ("error", "expected"),
    [(WorkerLostError("killed"), Failed), (MemoryError(), Failed), (SystemExit(1), Failed)],
)
def test_a_lost_child_is_an_attempt(worker: Worker, error: BaseException, expected: type) -> None:
    """Celery would delete the message, or end the worker."""
    request = worker.request()
    request.execute_using_pool(worker.pool)
    request.on_failure(error_info(error))
    assert isinstance(worker.outcome, expected)


def test_a_lost_child_of_a_stopping_worker_is_no_attempt(worker: Worker) -> None:
    """Whoever stops the worker may have told its children too."""
    request = worker.request()
    request.execute_using_pool(worker.pool)
    with patch.object(state, "should_stop", 0):
        request.on_failure(error_info(WorkerLostError("killed")))
    assert worker.outcome == Returned()


def test_a_task_cut_off_by_a_shutdown_comes_again(worker: Worker) -> None:
    """And one that ended after all is settled."""
    request = worker.request()
    request.execute_using_pool(worker.pool)
    request._already_cancelled = True
    request.on_failure(error_info(Terminated(15)))
    assert worker.outcome == Returned()


def test_a_terminated_task_is_over(worker: Worker) -> None:
    """Revoked with terminate: nobody wants it any more."""
    request = worker.request()
    request.execute_using_pool(worker.pool)
    request.on_failure(error_info(Terminated(15)))
    assert worker.outcome == Discarded(reason="terminated")


def test_what_celery_acknowledges_or_rejects_is_not_deleted(worker: Worker) -> None:
    """Only settlement deletes."""
    request = worker.request()
    request.acknowledge()
    assert not worker.settled
    request.reject(requeue=False)
    assert isinstance(worker.outcome, Failed)
    assert worker.outcome.permanent
