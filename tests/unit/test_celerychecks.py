"""The worker's checks before its start, by pool."""

import functools
import gc
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from celery import Celery, signals

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.celery import make_app
from pipeline.errors import ConfigurationError
from pipeline.settings import load_settings
from pipeline.worker import celerychecks, celerysettings
from tests.builders import settings
from tests.loglines import log_lines
from tests.unit.test_settings import REQUIRED


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_green_pools_are_refused(pool: str) -> None:
    """librdkafka would block all their tasks at once; the message says what to use instead."""
    with pytest.raises(ConfigurationError, match=r"Use --pool prefork"):
        celerychecks.check_pool(pool, Registry())


def test_a_pool_is_known_by_its_module() -> None:
    """By the class or an instance of it, as Celery gives either."""

    class TaskPool:
        __module__ = "celery.concurrency.thread"

    assert celerychecks.pool_name(TaskPool) == celerychecks.pool_name(TaskPool()) == "thread"
    assert "thread" in celerychecks.LIMITLESS_POOLS


SETTINGS = load_settings(REQUIRED)


@pytest.mark.parametrize(
    ("takes", "not_taken", "level"),
    [
        (["orders.fifo"], ["slow.fifo"], "warning"),
        (["slow.fifo"], ["orders.fifo"], "info"),
    ],
)
def test_a_worker_names_the_queues_that_it_does_not_take_from(
    takes: list[str], not_taken: list[str], level: str
) -> None:
    """A stage's own queue waits for ever where no worker has -Q; one that was given -Q is one of several."""
    with log_lines(celerychecks) as lines:
        celerychecks.report_queues(SETTINGS, _stages(), takes)
    (line,) = lines
    assert (line["event"], line["level"]) == ("worker.queues", level)
    assert (line["takes"], line["not_taken"]) == (takes, not_taken)
    assert line["mend"] == f"start a worker with -Q {not_taken[0]}"


def test_a_worker_that_takes_from_all_queues_says_nothing() -> None:
    """Nor does one that receives nothing by its settings."""
    off = SETTINGS.model_copy(update={"use_sqs_task_processing": False})
    with log_lines(celerychecks) as lines:
        celerychecks.report_queues(SETTINGS, _stages(), ["orders.fifo", "slow.fifo"])
        celerychecks.report_queues(off, _stages(), ["orders.fifo"])
    assert lines == []


def _stages() -> Registry:
    registry = Registry()

    @stage(consumes="letters", emits="words", registry=registry)
    def read(letter: str) -> str:
        return letter

    @stage(consumes="words", queue="slow.fifo", registry=registry)
    def count(word: str) -> None: ...

    return registry


# ─── Tasks and settings of Celery ───


@pytest.fixture
def app() -> Celery:
    return make_app(settings())


def plain(x: int) -> int:
    return x


async def coroutine(x: int) -> None: ...


def generator(x: int) -> Iterator[int]:
    yield x


async def asynchronous_generator(x: int) -> AsyncIterator[int]:
    yield x


@functools.wraps(coroutine)
def wrapped(x: int) -> Any:
    return coroutine(x)


@pytest.mark.parametrize(
    ("code", "options", "why"),
    [
        (asynchronous_generator, {}, "return a list"),
        (generator, {}, "return a list"),
        (plain, {"Strategy": "celery_batches:Strategy"}, "celery_batches:Strategy"),
    ],
)
def test_a_task_that_would_never_run_is_refused_with_its_name(
    app: Celery, code: Any, options: dict[str, Any], why: str
) -> None:
    """Celery would say that it is done, or hold its messages and say nothing."""
    app.task(code, name="shop.price", shared=False, **options)
    with pytest.raises(ConfigurationError, match=f"shop.price .*{re.escape(why)}"):
        celerychecks.check_tasks(app.tasks)


def test_other_tasks_start(app: Celery) -> None:
    """Celery's own and this project's among them, and async ones."""
    app.task(plain, name="plain", shared=False)
    app.task(coroutine, name="coroutine", shared=False)
    app.task(wrapped, name="wrapped", shared=False)
    celerychecks.check_tasks(app.tasks)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_serializer", "pickle"),
        ("task_compression", "gzip"),
        ("broker_url", "redis://here"),
        ("worker_consumer", "celery.worker.consumer:Consumer"),
    ],
)
def test_settings_of_celery_with_which_no_task_runs_are_refused(app: Celery, name: str, value: Any) -> None:
    """With the value that they must have."""
    app.conf[name] = value
    with pytest.raises(ConfigurationError, match=f"{name} .* must be"):
        celerysettings.check_celery_settings(app.conf)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_acks_late", False),
        ("task_protocol", 1),
        ("task_reject_on_worker_lost", False),
        ("result_backend", "redis://here"),
        ("broker_transport_options", {"visibility_timeout": 60}),
        ("task_time_limit", None),
    ],
)
def test_settings_of_celery_that_do_not_count_are_named(app: Celery, name: str, value: Any) -> None:
    """With what counts instead; a user would wonder for long."""
    app.conf[name] = value
    with log_lines(celerysettings) as lines:
        celerysettings.check_celery_settings(app.conf)
    (line,) = lines
    assert line["event"] == "worker.settings_overruled"
    assert list(line["settings"]) == [name]


def test_a_service_that_sets_nothing_of_celerys_is_told_nothing(app: Celery) -> None:
    """The project's own values are none of a user's."""
    with log_lines(celerysettings) as lines:
        celerysettings.check_celery_settings(app.conf)
    assert lines == []


def test_a_worker_that_could_not_open_its_files_is_refused() -> None:
    """It would fork no child and connect nowhere, and look alive; the usual 256 and 1024 are enough."""
    with pytest.raises(ConfigurationError, match=r"may have 40 files open.* needs 90: .*ulimit -n"):
        celerychecks.check_open_files(40, processes=2, queues=1, serves_health=False)
    celerychecks.check_open_files(256, processes=16, queues=3, serves_health=False)
    celerychecks.check_open_files(1024, processes=64, queues=20, serves_health=True)


def test_a_worker_keeps_files_for_a_flooded_health_server() -> None:
    """Connections to HEALTH_PORT are counted before, so they never take what the heartbeat needs."""
    celerychecks.check_open_files(100, processes=2, queues=1, serves_health=False)
    with pytest.raises(ConfigurationError, match=r"may have 100 files open.* needs 190"):
        celerychecks.check_open_files(100, processes=2, queues=1, serves_health=True)


def test_a_fork_does_not_wait_for_a_collection() -> None:
    """With --max-tasks-per-child 1 the collection before each fork was most of the event loop's time."""
    signals.worker_before_create_process.send(sender=None)
    try:
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_to_ask_for_a_result_raises(app: Celery) -> None:
    """None would look like the task's result."""
    result = app.AsyncResult("t")
    result.ignored = True
    for ask in (result.get, lambda: result.state):
        with pytest.raises(NotImplementedError, match="RESULTS=true"):
            ask()
