"""The child processes of a bridge that runs stages itself: their end while a task is being started."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.inline.children import Children
from pipeline.patience import Abandoned
from tests.builders import stage_lease


class Pool:
    """As Celery's: once it was ended it takes nothing, and answers None."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Start no process."""

    def terminate(self) -> None:
        """Nothing runs."""

    def apply_async(self, *args: Any, **options: Any) -> None:
        """Take nothing."""


def test_a_task_started_as_the_processes_end_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge that stops runs it again after its next start, and ends without an error."""
    monkeypatch.setattr("pipeline.inline.children.TaskPool", Pool)
    task = SimpleNamespace(name="strict", time_limit=1, soft_time_limit=None)
    limited = SimpleNamespace(task_time_limit=60)
    app = SimpleNamespace(tasks={"strict": task}, conf=limited, pipeline=SimpleNamespace(settings=limited))
    children = Children(app, 1)
    children.end()
    wait = children.run(stage_lease(), None)
    with pytest.raises(Abandoned):
        wait()
