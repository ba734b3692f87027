"""Tasks that are async functions: which ones, and how Celery's tracer, which is not async, runs them."""

import functools
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from pipeline.author import awaiting
from pipeline.worker.child.stagetask import StageTask


def is_async(task: Any) -> bool:
    """Whether the function of a task is async."""
    return task.is_async if isinstance(task, StageTask) else awaiting.is_async(task.run)


def async_tasks(tasks: Mapping[str, Any]) -> dict[str, Any]:
    """Return, by name, the tasks whose functions are async."""
    return {name: task for name, task in tasks.items() if is_async(task)}


def queue_kinds(tasks: Mapping[str, Any], task_queue: str) -> dict[str, bool]:
    """Return whether its tasks are async, by queue that has stages of one kind only.

    Not of ``task_queue`` where plain tasks of the other kind may be sent to it.
    """
    found = defaultdict(set)
    for name, task in tasks.items():
        if isinstance(task, StageTask):
            found[task.stage.queue or task_queue].add(task.is_async)
        elif not name.startswith("celery."):
            found[task_queue].add(is_async(task))
    return {queue: kinds.pop() for queue, kinds in found.items() if len(kinds) == 1}


def await_functions(tasks: Mapping[str, Any]) -> None:
    """Let the async functions of plain tasks be awaited where Celery calls them.

    Call it before tracers are built. It may be called again.
    """
    for task in tasks.values():
        if isinstance(task, StageTask) or not is_async(task):
            continue
        # Within autoretry_for, which catches what the function raises.
        name = "_orig_run" if hasattr(task, "_orig_run") else "run"
        function = getattr(task, name)
        if not hasattr(function, "awaits"):
            setattr(task, name, _awaited(function))


def _awaited(function: Any) -> Any:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return awaiting.call(function, *args, **kwargs)

    run.awaits = True  # type: ignore[attr-defined]
    return run
