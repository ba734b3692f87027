"""What the worker refuses before it starts, by the pool it is to use."""

import pytest

from config.settings import load_settings
from pipeline.errors import ConfigurationError
from pipeline.registry import Registry
from pipeline.stages import stage
from pipeline.worker import steps
from tests.loglines import log_lines
from tests.unit.test_settings import REQUIRED


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_green_pools_are_refused(pool: str) -> None:
    """librdkafka would block all their tasks at once; the message says what to use instead."""
    with pytest.raises(ConfigurationError, match=r"Use --pool prefork"):
        steps.check_pool(pool)


def test_a_pool_is_known_by_its_module() -> None:
    """By the class or an instance of it, as Celery gives either."""

    class TaskPool:
        __module__ = "celery.concurrency.thread"

    assert steps.pool_name(TaskPool) == steps.pool_name(TaskPool()) == "thread"
    assert "thread" in steps.LIMITLESS_POOLS


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
    with log_lines(steps) as lines:
        steps.tell_queues(SETTINGS, _stages(), takes)
    (line,) = lines
    assert (line["event"], line["level"]) == ("worker.queues", level)
    assert (line["takes"], line["not_taken"]) == (takes, not_taken)
    assert line["mend"] == f"start a worker with -Q {not_taken[0]}"


def test_a_worker_that_takes_from_all_queues_says_nothing() -> None:
    """Nor does one that receives nothing by its settings."""
    off = SETTINGS.model_copy(update={"use_sqs_task_processing": False})
    with log_lines(steps) as lines:
        steps.tell_queues(SETTINGS, _stages(), ["orders.fifo", "slow.fifo"])
        steps.tell_queues(off, _stages(), ["orders.fifo"])
    assert lines == []


def _stages() -> Registry:
    registry = Registry()

    @stage(consumes="letters", emits="words", registry=registry)
    def read(letter: str) -> str:
        return letter

    @stage(consumes="words", queue="slow.fifo", registry=registry)
    def count(word: str) -> None: ...

    return registry
