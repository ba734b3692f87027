"""Celery's own tasks: a worker runs those that its service may have sent."""

from typing import Any

from celery import Celery

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.worker import errbacks
from pipeline.worker.builtintasks import FOR_PLAIN_TASKS, refused_builtins
from pipeline.worker.loader import register_stages
from tests.builders import settings

NEVER_SENT = {
    "celery.backend_cleanup",
    "celery.chain",
    "celery.chord",
    "celery.chord_unlock",
    "celery.group",
}


def app_with_a_stage() -> Celery:
    app, registry = Celery("shop", set_as_current=False), Registry()

    @stage(consumes="letters", registry=registry)
    def strict(number: int) -> None: ...

    register_stages(app, settings(), registry)
    errbacks.register(app)
    return app


def tasks_of(app: Celery) -> dict[str, Any]:
    """The app's tasks, without those that other tests share with every app."""
    own = {"note", "strict", "strict.split", errbacks.NAME}
    return {name: task for name, task in app.tasks.items() if name in own or name.startswith("celery.")}


def test_stages_use_none_of_celerys_own_tasks() -> None:
    """A service of stages runs none of them, whoever sends one."""
    assert refused_builtins(tasks_of(app_with_a_stage())) == NEVER_SENT | FOR_PLAIN_TASKS


def test_plain_tasks_may_be_mapped() -> None:
    """With a plain task, ``map``, ``starmap`` and ``chunks`` work; a group published by others does not."""
    app = app_with_a_stage()

    @app.task(name="note", shared=False)  # type: ignore[untyped-decorator]
    def note(text: str) -> str:
        return text

    assert refused_builtins(tasks_of(app)) == NEVER_SENT
