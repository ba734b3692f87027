"""What the worker refuses before it starts, by the pool it is to use."""

import pytest

from pipeline.errors import ConfigurationError
from pipeline.worker import steps


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
