"""Findings about an app's settings, queues, schedule and tasks."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from celery import Celery

from pipeline.author.timing import timing_of
from pipeline.errors import ConfigurationError, StageDefinitionError
from pipeline.migration.finding import Finding
from pipeline.migration.loadedapp import registered_tasks
from pipeline.migration.settingstable import Effect, effects
from pipeline.wire.redaction import redact
from pipeline.worker.celerychecks import check_tasks
from pipeline.worker.celerysettings import LONGEST_RUN

#: Characters of a value that are shown.
_SHOWN: Final = 80
_REQUEST: Final = "celery.worker.request:Request"
_EXCHANGES: Final = ("exchange", "routing_key", "exchange_type")


def check_app(app: Celery) -> Iterator[Finding]:
    """Yield what differs for this app; it is not changed, and nothing is connected to."""
    set_by_app = {name: app.conf.get(name) for name in effects() if app.conf.value_set_for(name)}
    yield from check_settings(set_by_app)
    yield from _check_queues(set_by_app)
    yield from _check_schedule(set_by_app.get("beat_schedule") or {}, app)
    tasks = registered_tasks(app)
    for name, task in tasks.items():
        yield from _check_task(name, task, set_by_app)
    yield from _check_habits(tasks, set_by_app)


# ─── Settings ───


def check_settings(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what the settings that an app sets itself do here, as far as it is not what they say."""
    for name, effect in effects().items():
        if name in values and (found := _of_setting(name, values[name], effect)) is not None:
            yield found


def _of_setting(name: str, value: Any, effect: Effect) -> Finding | None:
    is_allowed = effect.allowed is None or value in effect.allowed
    shown = _shown(value)
    match effect.kind:
        case "required" if not is_allowed:
            return Finding(level="error", about=name, what=f"is {shown}", mend=_mend(name, effect))
        case "overruled" if not is_allowed:
            what = f"{shown} does not count: {effect.text}"
            mend = (
                "RESULTS=true, where tasks run and where results are read" if name == "result_backend" else ""
            )
            return Finding(level="warning", about=name, what=what, mend=mend)
        case "unused":
            return Finding(level="note", about=name, what=f"has no effect: {effect.text}", mend="remove it")
    if name in ("broker_read_url", "broker_write_url") and value and not str(value).startswith("fifo://"):
        return Finding(level="error", about=name, what=f"is {shown}", mend=effect.text)
    if name == "task_time_limit" and value is not None and value > LONGEST_RUN:
        return Finding(level="error", about=name, what=f"is {shown}", mend=f"at most {LONGEST_RUN:g} seconds")
    if name == "beat_scheduler" and value != "celery.beat:PersistentScheduler":
        what = f"{shown} is of celery beat alone: the bridges fire beat_schedule"
        return Finding(level="note", about=name, what=what)
    return None


def _mend(name: str, effect: Effect) -> str:
    if name == "broker_url":
        return 'set it to "fifo://" and add pipeline.install(app) where the app is made'
    return effect.text


# ─── Queues and schedule ───


def _check_queues(values: Mapping[str, Any]) -> Iterator[Finding]:
    if name := values.get("task_default_queue"):
        yield from _queue("task_default_queue", str(name))
    queues = values.get("task_queues") or ()
    for queue in queues.items() if isinstance(queues, Mapping) else queues:
        name = queue[0] if isinstance(queue, tuple) else getattr(queue, "name", queue)
        yield from _queue("task_queues", str(name))
        kind = getattr(getattr(queue, "exchange", None), "type", "direct")
        if kind not in ("direct", None):
            yield _no_exchange(f"task_queues, {name}", f"is bound to a {kind} exchange")
    routes = values.get("task_routes") or ()
    for router in [routes] if isinstance(routes, Mapping | str) or callable(routes) else routes:
        yield from _check_router(router)


def _check_router(router: Any) -> Iterator[Finding]:
    if isinstance(router, tuple) and len(router) == 2:
        router = {router[0]: router[1]}
    if not isinstance(router, Mapping):
        what = "has a router that is code, which is not run here"
        yield Finding(level="note", about="task_routes", what=what, mend="let it name FIFO queues only")
        return
    for task, route in router.items():
        about = f"task_routes, {task}"
        route = route if isinstance(route, Mapping) else {"queue": route}
        queue = route.get("queue")
        if queue is not None:
            yield from _queue(about, str(getattr(queue, "name", queue)))
        if given := [name for name in _EXCHANGES if route.get(name)]:
            yield _no_exchange(about, f"sets {', '.join(given)}")
        if route.get("priority") is not None:
            yield _no_priority(about)


def _queue(about: str, name: str) -> Iterator[Finding]:
    if not name.endswith(".fifo"):
        yield Finding(
            level="warning",
            about=about,
            what=f"names the queue {name!r}, which is {name}.fifo on SQS",
            mend="create it as FIFO with a RedrivePolicy",
        )


def _no_exchange(about: str, what: str) -> Finding:
    return Finding(level="error", about=about, what=f"{what}: there are no exchanges", mend="name a queue")


def _no_priority(about: str) -> Finding:
    return Finding(
        level="warning",
        about=about,
        what="sets a priority, which is ignored: FIFO queues have none",
        mend="give urgent tasks a queue and workers of their own",
    )


def _check_schedule(schedule: Mapping[str, Any], app: Celery) -> Iterator[Finding]:
    for name, entry in schedule.items():
        about = f"beat_schedule, {name}"
        fields = entry if isinstance(entry, Mapping) else vars(entry)
        options = fields.get("options") or {}
        try:
            timing_of(fields.get("schedule"))
        except StageDefinitionError as error:
            mend = "or set BRIDGE_BEAT=false, and run celery beat"
            yield Finding(level="error", about=about, what=str(error), mend=mend)
        if (task := fields.get("task")) not in app.tasks:
            yield Finding(level="warning", about=about, what=f"names {task!r}, which no task module defines")
        if queue := options.get("queue"):
            yield from _queue(about, str(getattr(queue, "name", queue)))
        if given := [option for option in _EXCHANGES if options.get(option)]:
            yield _no_exchange(about, f"sets {', '.join(given)}")
    if schedule:
        yield Finding(
            level="note",
            about="beat_schedule",
            what="is fired by the bridges; celery beat beside them would send every tick twice",
            mend="stop celery beat before a bridge starts, or set BRIDGE_BEAT=false",
        )


# ─── Tasks ───


def _check_task(name: str, task: Any, values: Mapping[str, Any]) -> Iterator[Finding]:
    where = _place_of(task)

    def found(level: Any, what: str, mend: str = "") -> Finding:
        return Finding(level=level, about=name, what=what, mend=mend, where=where)

    try:
        check_tasks({name: task})
    except ConfigurationError as error:
        reason = str(error).split(f"{name} ", 1)[-1].rstrip(".")
        yield found("error", reason)
    if task.serializer not in ("json", values.get("task_serializer")):
        yield found("error", f"is serialized as {task.serializer}", 'serializer="json"')
    if (
        task.Request != _REQUEST
        and isinstance(task.Request, str)
        and not task.Request.startswith("pipeline.")
    ):
        yield found(
            "warning",
            f"has the Request class {task.Request}, which is replaced",
            "use signals or a base Task",
        )
    if task.priority is not None and task.priority != values.get("task_default_priority"):
        yield found("warning", "has a priority, which is ignored: FIFO queues have none")
    if task.time_limit not in (None, values.get("task_time_limit")) and task.time_limit > LONGEST_RUN:
        yield found(
            "error",
            f"has a time limit of {task.time_limit:g} s",
            f"at most {LONGEST_RUN:g}: SQS holds no message longer",
        )
    queue = getattr(task, "queue", None)
    if queue and not str(queue).endswith(".fifo"):
        yield found(
            "warning",
            f"names the queue {queue!r}, which is {queue}.fifo on SQS",
            "create it as FIFO with a RedrivePolicy",
        )
    if given := [option for option in _EXCHANGES if getattr(task, option, None)]:
        yield found("error", f"sets {', '.join(given)}: there are no exchanges", "name a queue")


def _place_of(task: Any) -> str | None:
    """Return file and line of a task's function, relative to the working folder where it is below it."""
    try:
        code = inspect.unwrap(task.run).__code__
    except (AttributeError, ValueError):
        return None
    path = Path(code.co_filename)
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{code.co_firstlineno}"


def _check_habits(tasks: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is different for all tasks."""
    if tasks and not values.get("task_acks_late"):
        yield Finding(
            level="warning",
            about="all tasks",
            what="are acknowledged when they have ended: a task whose worker is killed runs again",
            mend="make tasks safe to repeat",
        )
    if plain := [name for name, task in tasks.items() if not getattr(task, "autoretry_for", None)]:
        yield Finding(
            level="warning",
            about=f"{len(plain)} tasks",
            what="without autoretry_for run again when they raise (MAX_RETRIES); in Celery they fail",
            mend="MAX_RETRIES=0, or raise pipeline.PermanentError where another run does not help",
        )


def _shown(value: Any) -> str:
    text = redact(repr(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
