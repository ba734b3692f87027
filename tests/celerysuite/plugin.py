"""The pytest plugin of the suite's runs: its apps get this project's transport, its tests more time."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.app import control
from celery.contrib.testing import app as testing
from celery.exceptions import TimeoutError as CeleryTimeoutError

import pipeline

#: The name of the queue, which the tests ask for. On SQS it is celery.fifo.
QUEUE = "celery"
#: Seconds that a test waits for the answer of the one worker, instead of 1 for those of all workers.
ANSWERS_WITHIN = 30.0
#: Seconds that a test waits for a result, instead of 10.
PATIENCE = 60

_make = testing.TestApp


def _installed(*args: Any, **kwargs: Any) -> Celery:
    app: Celery = _make(*args, **kwargs)
    app.add_defaults({"task_default_queue": QUEUE})
    return pipeline.install(app)


class OneWorker(control.Inspect):  # type: ignore[misc]
    """Celery's ``inspect()``, which returns once the worker has answered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"timeout": ANSWERS_WITHIN, "limit": 1} | kwargs))


_revoke = control.Control.revoke_by_stamped_headers


def _revoke_and_wait(self: Any, headers: Any, **options: Any) -> Any:
    """Wait for the worker's answer: a task published after the command, by SQS, may be there before it."""
    return _revoke(self, headers, **(options | {"reply": True, "timeout": ANSWERS_WITHIN, "limit": 1}))


def _patiently(await_count: Callable[..., None]) -> Callable[..., None]:
    """Look for a count as long as for a result, where a test looks once: errbacks are tasks of their own."""

    def look(expected: int, redis_key: str = "redis-count", timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await_count(expected, redis_key=redis_key, timeout=timeout)
            except CeleryTimeoutError:
                if timeout or time.monotonic() > deadline:
                    raise

    return look


testing.TestApp = _installed
control.Inspect = OneWorker
control.Control.revoke_by_stamped_headers = _revoke_and_wait


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests more time than their authors did."""
    for module in {item.getparent(pytest.Module) for item in items}:
        if module is not None and hasattr(module.obj, "TIMEOUT"):
            module.obj.TIMEOUT = PATIENCE
        if module is not None and hasattr(module.obj, "await_redis_count"):
            module.obj.await_redis_count = _patiently(module.obj.await_redis_count)
