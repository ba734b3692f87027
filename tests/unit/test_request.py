"""Every way in which Celery lets a task end leads to settlement, once, and none deletes the message."""

import time
from collections.abc import Iterator
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Self, cast
from unittest.mock import MagicMock, patch

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, WorkerLostError
from celery import Celery
from celery.events.state import State
from celery.exceptions import TaskRevokedError
from celery.signals import task_failure
from celery.worker import state
from celery.worker.request import create_request_cls
from celery.worker.strategy import default

from pipeline.clock import boottime
from pipeline.transport.intake import Intake
from pipeline.transport.kombutransport import Message
from pipeline.transport.lease import LONGEST_HOLD, Lease, Phase
from pipeline.wire.taskmessage import HEADER, TaskHeader
from pipeline.worker.celerysettings import LONGEST_RUN
from pipeline.worker.child.outcome import (
    Discarded,
    Failed,
    Outcome,
    Returned,
    Succeeded,
)
from pipeline.worker.child.runoptions import RunOptions
from pipeline.worker.dispatcher import Dispatcher
from pipeline.worker.request import request_class
from pipeline.worker.sample import Sample
from pipeline.worker.settle.work import Work
from pipeline.worker.taskcounts import TaskCounts
from tests.builders import lease, pipeline_header

LIMIT = 60


def note() -> None:
    """Never run here."""


class Worker:
    """A worker around one message: a real intake, a pool that only takes, a settlement that only lists."""

    def __init__(self) -> None:
        self.app = Celery("test", set_as_current=False, task_ignore_result=True)
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
        self.sample, self.counts = Sample(100), TaskCounts()
        self.given: list[dict[str, Any]] = []
        self.pool = SimpleNamespace(apply_async=self._apply, terminate_job=lambda *_: None)

    @cached_property
    def dispatcher(self) -> Any:
        """What sends events, buffered as in a worker: it connects to nothing."""
        self.app.conf.broker_url = "memory://"
        kind = self.app.subclass_with_self(Dispatcher, reverse="events.Dispatcher")
        return kind(hostname="w@host", buffer_group={"task"}, buffer_limit=1_000)

    def settle(self, work: Work) -> None:
        self.settled.append(work)

    def request(self, more: Any = None, *, requested_at: float | None = None, **headers: Any) -> Any:
        """Celery's request of the message."""
        message = self.message(more, requested_at=requested_at, **headers)
        bound = request_class(cast(Any, self))
        kind = create_request_cls(bound, self.task, self.pool, "host", None, app=self.app)
        return kind(message, app=self.app)

    def message(self, more: Any = None, *, requested_at: float | None = None, **headers: Any) -> Message:
        """The message, delivered, with these headers and ``more``."""
        now = boottime() if requested_at is None else requested_at
        whole = {"id": "t-1", "retries": 0, **headers, **(more or {})}
        self.intake.hold([lease(headers=whole, deadline=boottime() + 30, receive_count=4, requested_at=now)])
        taken = self.intake.take()
        assert taken is not None
        assert taken.envelope is not None
        payload = taken.envelope.delivered_as(taken.tag, redelivered=False)
        return Message(payload, SimpleNamespace(decode_body=lambda body, _: body))

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


# ─── Task events ───

WHOLE = ["task-received", "task-started", "task-succeeded"]


class Announced:
    """The events that a worker sends of a task, which Celery's own strategy receives, and which starts."""

    request: Any

    def __init__(self, worker: Worker, *, one_in: int = 8, attempts: int = 0, **headers: Any) -> None:
        worker.sample.one_in = one_in
        message = worker.message(**headers)
        worker.lease.attempts = attempts
        worker.task.Request = request_class(cast(Any, worker))
        self._events = worker.dispatcher
        default(worker.task, worker.app, self._consumer(worker))(message, None, None, None, [])
        self.request.execute_using_pool(worker.pool)
        self.request.on_accepted(1, time.monotonic())

    def _consumer(self, worker: Worker) -> Any:
        return MagicMock(
            hostname="w@host",
            disable_rate_limits=True,
            event_dispatcher=self._events,
            on_task_request=self._take,
            pool=worker.pool,
            controller=SimpleNamespace(state=state),
        )

    def _take(self, request: Any) -> None:
        self.request = request

    def succeed(self) -> Self:
        """End the task well."""
        self.request.send_event("task-succeeded", result="1", runtime=0.1)
        return self

    def fail(self, kind: str = "task-failed") -> Self:
        """End the task with an error."""
        self.request.send_event(kind, exception="ValueError('no')", traceback="…")
        return self

    @property
    def sent(self) -> list[dict[str, Any]]:
        return list(self._events._group_buffer["task"])

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.sent]


@pytest.mark.parametrize("requeue", [True, False])
def test_a_rejected_message_is_announced(worker: Worker, requeue: bool) -> None:
    """With Celery's own event, whether the message comes again or is a dead letter."""
    announced = Announced(worker, id=IN)
    rejected = Returned(rejected=True) if requeue else Failed(error="Reject", message="", rejected=True)
    announced.request.on_success(rejected)
    assert worker.outcome is rejected
    assert (announced.kinds[-1], announced.sent[-1]["requeue"]) == ("task-rejected", requeue)


def an_id(*, within: int = 1, outside: int) -> str:
    """Return an id in the sample of one in ``within``, and not in that of one in ``outside``."""

    def weight(key: str, one_in: int) -> int:
        sample = Sample(100)
        sample.one_in = one_in
        return sample.weight(key)

    return next(each for each in map(str, range(1_000)) if weight(each, within) and not weight(each, outside))


IN, OUT = an_id(within=8, outside=2**16), an_id(outside=8)


def test_up_to_the_rate_all_events_of_all_tasks_are_sent(worker: Worker) -> None:
    """As Celery's worker sends them."""
    of = Announced(worker, one_in=1, root_id=OUT).succeed()
    assert of.kinds == WHOLE
    assert all("stands_for" not in event for event in of.sent)


def test_of_a_job_in_the_sample_all_events_are_sent(worker: Worker) -> None:
    """The one of its end says how many tasks it stands for."""
    of = Announced(worker, root_id=IN).succeed()
    assert of.kinds == WHOLE
    assert of.sent[-1]["stands_for"] == 8


def test_of_a_job_outside_the_sample_no_event_is_sent(worker: Worker) -> None:
    """Its tasks are counted all the same."""
    assert Announced(worker, root_id=OUT).succeed().kinds == []
    assert worker.counts.fields([])["tasks"] == {"note": (1, 0, 0)}


@pytest.mark.parametrize(("job_id", "root_id", "kinds"), [(IN, OUT, WHOLE), (OUT, IN, [])])
def test_a_stages_tasks_are_chosen_by_their_job(
    worker: Worker, job_id: str, root_id: str, kinds: list[str]
) -> None:
    """Each stage's task has a root of its own."""
    header = pipeline_header(job_id=job_id, stage="note")
    task_id = TaskHeader.model_validate(header).task_id
    assert Announced(worker, id=task_id, root_id=root_id, more={HEADER: header}).succeed().kinds == kinds


def test_a_plain_task_without_a_root_is_chosen_by_its_own_id(worker: Worker) -> None:
    """As another Celery client may send it."""
    assert Announced(worker, id=IN).succeed().kinds == WHOLE


def test_a_choice_holds_for_a_task_to_its_end(worker: Worker) -> None:
    """The share may change while it runs: Flower shows no task that runs for ever, and no half of one."""
    shown = Announced(worker, one_in=2, root_id=an_id(within=2, outside=8))
    worker.sample.one_in = 8
    assert shown.succeed().kinds == WHOLE


def test_a_task_that_failed_is_a_whole_failed_task(worker: Worker) -> None:
    """Celery's state of tasks, which Flower shows, has its name and arguments, though nothing came before."""
    reprs = {"argsrepr": "(1,)", "kwargsrepr": "{'job_id': 'j'}"}
    of = Announced(worker, root_id=OUT, parent_id="p", more=reprs).fail()
    assert of.kinds == ["task-failed"]
    shown = State()
    for event in of.sent:
        shown.event({"local_received": event["timestamp"], **event})
    task = shown.tasks["t-1"]
    assert (task.state, task.name, task.args, task.kwargs) == ("FAILURE", "note", *reprs.values())
    assert (task.root_id, task.parent_id, task.worker.hostname) == (OUT, "p", "w@host")
    assert task.exception == "ValueError('no')"
    assert [task.uuid for _, task in shown.tasks_by_time()] == ["t-1"]


def test_what_failed_is_shown_to_its_end(worker: Worker) -> None:
    """Else Flower would show for ever that it is to be tried again."""
    assert Announced(worker, root_id=OUT).fail("task-retried").kinds == ["task-retried"]
    worker.intake.finish(worker.lease.tag)
    worker.intake.forget([worker.lease])
    again = Announced(worker, root_id=OUT, attempts=1).succeed()
    assert again.kinds == ["task-retried", *WHOLE]
    assert "stands_for" not in again.sent[-1]
    assert worker.counts.fields([])["tasks"] == {"note": (1, 1, 0)}
