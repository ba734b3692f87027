"""Celery's own tasks: which of them a worker runs.

Celery registers them in every app. Most are never sent where no results are stored, and one that others send
publishes tasks to any queue with the worker's rights (``celery.group``).
"""

from collections.abc import Mapping
from typing import Any, Final

from pipeline.worker.child.stagetask import StageTask
from pipeline.worker.errbacks import NAME

#: Tasks that plain tasks send: ``task.map``, ``starmap`` and ``chunks``, and ``replace`` by a group.
FOR_PLAIN_TASKS: Final = frozenset({"celery.map", "celery.starmap", "celery.chunks", "celery.accumulate"})
#: The module of Celery's own tasks. Those of its test kit (``celery.ping``) are in an app that imports it.
CELERYS: Final = "celery.app.builtins"


def refused_builtins(tasks: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of Celery's own tasks that no part of an app with these tasks sends."""
    builtins = {name for name, task in tasks.items() if task.__module__ == CELERYS}
    has_plain = any(not isinstance(tasks[name], StageTask) for name in tasks.keys() - builtins - {NAME})
    return frozenset(builtins - FOR_PLAIN_TASKS if has_plain else builtins)
