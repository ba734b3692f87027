"""The modules of an app: Celery's own and those of stages, whose stages become Celery tasks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

from pipeline.author.loading import load_stages, set_up_django
from pipeline.author.registry import Registry
from pipeline.author.stages import Stage
from pipeline.errors import ConfigurationError, StageDefinitionError
from pipeline.jobs import JobStore
from pipeline.settings import Settings
from pipeline.wire.taskmessage import Role, celery_name
from pipeline.worker.celerychecks import refuse_open_flower, start_refused
from pipeline.worker.child.stagetask import StageTask


def import_modules(app: Celery, celerys: Callable[[], Any]) -> Any:
    """Import what Celery imports for an app, then its stages and consumers; return Celery's answer.

    ``celerys`` is the loader's own ``import_default_modules``. Runs wherever the tasks must be known: worker,
    bridge, Flower, ``celery inspect``. Raises ``StartRefused`` where stages are missing, or cannot work.
    """
    refuse_open_flower()
    settings = app.pipeline.settings
    try:
        # Before Celery's own imports, which set Django up as well, but do not explain a failure.
        set_up_django()
        imported = celerys()
        # Celery's own script, unlike "python -m celery", leaves the current folder out of the path.
        registry = load_stages(settings.task_modules, Path.cwd(), settings.consumer_modules)
    except (ConfigurationError, StageDefinitionError) as error:
        raise start_refused(error) from error
    register_stages(app, settings, registry)
    return imported


def register_stages(app: Celery, settings: Settings, registry: Registry) -> None:
    """Register a Celery task for each name of each stage."""
    store = JobStore(settings)
    for stage in registry.by_name.values():
        # A split that another version sent is run whole where this one has none.
        roles: tuple[Role, ...] = ("part", "split", "gather") if stage.is_split else ("run", "split")
        for role in roles:
            app.register_task(_task(stage, role, store))


def _task(stage: Stage[Any, Any], role: Role, store: JobStore) -> StageTask:
    attributes = {
        "__module__": stage.function.__module__,
        "__doc__": stage.function.__doc__,
        "name": celery_name(stage.name, role),
        "stage": stage,
        "is_async": stage.is_async(role),
        "store": store,
        "soft_time_limit": stage.soft_time_limit,
    }
    if stage.time_limit is not None:
        attributes["time_limit"] = stage.time_limit
    task: StageTask = type(f"{stage.name}_task", (StageTask,), attributes)()
    return task
