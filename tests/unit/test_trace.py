"""A run in a child: what Celery's own retry makes of a plain task's failure."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from celery import Celery, Task, _state
from celery.exceptions import MaxRetriesExceededError

from pipeline.worker.child import trace
from pipeline.worker.child.outcome import Discarded, Failed, Outcome, Succeeded
from pipeline.worker.child.runoptions import RunOptions

OPTIONS = RunOptions(attempt=1, limit=None, start_before=float("inf"))

Code = Callable[["Task[Any, Any]"], Any]


@pytest.fixture
def app() -> Iterator[Celery]:
    before = _state._tls.current_app
    made = Celery("test", broker="memory://", set_as_current=False)
    made.conf.task_ignore_result = True
    made.set_current()
    yield made
    _state._tls.current_app = before


def run(app: Celery, code: Code, retries: int = 0, **options: Any) -> Outcome:
    """Return the outcome for a task's message that was published again so often."""
    app.task(code, name="task", bind=True, shared=False, **options)
    app.finalize()
    request = {"id": "t", "task": "task", "retries": retries, "delivery_info": {}}
    return trace.run("task", "t", request, "[[], {}, {}]", "application/json", "utf-8", OPTIONS)


def fails(task: "Task[Any, Any]") -> None:
    raise ValueError("no")


def retries_of_itself(task: "Task[Any, Any]") -> None:
    try:
        fails(task)
    except ValueError as error:
        raise task.retry(exc=error, countdown=60) from error


def says_how_often(task: "Task[Any, Any]") -> None:
    raise task.retry(countdown=60, max_retries=1)


def tells_of_the_end(task: "Task[Any, Any]") -> None:
    try:
        raise task.retry(countdown=60)
    except MaxRetriesExceededError:
        raise RuntimeError("told a person") from None


IN_VAIN: list[tuple[Code, int, dict[str, Any], str]] = [
    (retries_of_itself, 2, {"max_retries": 2}, "builtins.ValueError"),
    (retries_of_itself, 0, {"max_retries": 0}, "builtins.ValueError"),
    (says_how_often, 1, {}, "celery.exceptions.MaxRetriesExceededError"),
    (tells_of_the_end, 3, {}, "builtins.RuntimeError"),
    (fails, 3, {"autoretry_for": (ValueError,)}, "builtins.ValueError"),
    (fails, 5, {"autoretry_for": (ValueError,), "retry_kwargs": {"max_retries": 5}}, "builtins.ValueError"),
]


@pytest.mark.parametrize(("code", "retries", "options", "error"), IN_VAIN)
def test_when_celerys_retries_are_used_up_it_is_the_end(
    app: Celery, code: Code, retries: int, options: dict[str, Any], error: str
) -> None:
    """``max_retries`` says how often it runs: MAX_RETRIES more of the last message would multiply that."""
    outcome = run(app, code, retries, **options)
    assert isinstance(outcome, Failed)
    assert (outcome.error, outcome.permanent) == (error, True)


@pytest.mark.parametrize(("code", "options"), [each[::2] for each in IN_VAIN if each[1] > 0])
def test_before_that_it_is_published_again(app: Celery, code: Code, options: dict[str, Any]) -> None:
    """By Celery, and this message is over."""
    assert run(app, code, **options) == Discarded(reason="retried by its own publish", lives_on=True)


def calls_another(task: "Task[Any, Any]") -> None:
    """As a function, of which ``retry`` only raises the exception on."""

    @task.app.task(name="other", bind=True, max_retries=0, shared=False)  # type: ignore[untyped-decorator]
    def other(own: "Task[Any, Any]") -> None:
        own.retry(exc=ValueError("no"))

    other()


@pytest.mark.parametrize(
    ("code", "retries", "options"),
    [
        (fails, 0, {"max_retries": 0}),
        (fails, 3, {}),
        (fails, 3, {"autoretry_for": (KeyError,)}),
        (calls_another, 0, {}),
    ],
)
def test_a_failure_that_is_not_retried_by_celery_is_one_attempt(
    app: Celery, code: Code, retries: int, options: dict[str, Any]
) -> None:
    """It has those of MAX_RETRIES, whatever its ``max_retries``, which is 3 where nobody says."""
    outcome = run(app, code, retries, **options)
    assert isinstance(outcome, Failed)
    assert not outcome.permanent


async def coroutine(task: "Task[Any, Any]") -> None: ...


def generator(task: "Task[Any, Any]") -> Iterator[int]:
    yield 1


def hidden(task: "Task[Any, Any]") -> Any:
    return coroutine(task)


@pytest.mark.parametrize("code", [coroutine, generator, hidden])
def test_a_task_whose_code_did_not_run_is_not_done(app: Celery, code: Code) -> None:
    """A start refuses those it can see; a decorator may hide one. It fails, with what to change."""
    outcome = run(app, code)
    assert isinstance(outcome, Failed)
    assert outcome.permanent
    assert "make it an async function" in outcome.message


def test_lines_of_a_plain_task_have_its_name_and_id(app: Celery) -> None:
    """Those that its own code writes, and none after it."""
    during: list[dict[str, Any]] = []

    def log(task: "Task[Any, Any]") -> None:
        during.append(structlog.contextvars.get_contextvars())

    run(app, log)
    assert during == [{"task": "task", "task_id": "t", "attempt": 1}]
    assert structlog.contextvars.get_contextvars() == {}


def test_a_shown_result_tells_no_secret(app: Celery) -> None:
    """Flower and the events topic get a part of the result."""

    def logs_in(task: "Task[Any, Any]") -> Any:
        return {"user": "ada", "accessToken": "hunter2", "url": "amqp://a:hunter2@mq"}

    outcome = run(app, logs_in)
    assert isinstance(outcome, Succeeded)
    assert "ada" in outcome.summary
    assert "hunter2" not in outcome.summary
