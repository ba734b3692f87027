"""The entries of Celery's ``beat_schedule``: each tick is a plain task whose id is a function of both.

They are read as they are written; Celery is not imported.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from pipeline.author.timing import timing_of
from pipeline.errors import ConfigurationError, MessageRefusedError, ServiceError, StageDefinitionError
from pipeline.jobs import BEAT_PREFIX
from pipeline.schedules.schedule import Schedule
from pipeline.schedules.stageticks import in_zone
from pipeline.transport.bulk import publish_all
from pipeline.wire import identity

if TYPE_CHECKING:
    from celery import Celery


def beat_schedules(app: "Celery", service: str) -> Iterator[Schedule]:
    """Yield the entries of an app; raise ``ConfigurationError`` for one that only ``celery beat`` can run."""
    app.finalize()
    timezone = timezone_of(app)
    for name, entry in app.conf.beat_schedule.items():
        try:
            timing = in_zone(timing_of(entry["schedule"]), timezone)
        except StageDefinitionError as error:
            raise ConfigurationError(
                f"beat_schedule, entry {name!r}: {error} Or set BRIDGE_BEAT=false, and run celery beat."
            ) from error
        yield Schedule(
            name=BEAT_PREFIX + name,
            runs=f"task {entry['task']}",
            timing=timing,
            fire=partial(_publish, app, service, name, entry),
        )


def timezone_of(app: "Celery") -> str:
    """Return the name of an app's time zone; raise ``ConfigurationError`` for one without a name."""
    name = str(app.timezone)
    try:
        return ZoneInfo(name).key
    except (ValueError, LookupError, OSError) as error:
        raise ConfigurationError(
            f"Celery's setting timezone is {name}, which is not in the time zone database: set a name such "
            "as Europe/Berlin."
        ) from error


def _publish(app: "Celery", service: str, name: str, entry: Mapping[str, Any], tick: float) -> None:
    """Publish the task of a tick. Its message is the same each time, so that SQS drops a second one."""
    at = datetime.fromtimestamp(tick, UTC)
    options = dict(entry.get("options") or {})
    if (countdown := options.pop("countdown", None)) is not None:
        options["eta"] = at + timedelta(seconds=countdown)
    if isinstance(options.get("expires"), int | float):
        options["expires"] = at + timedelta(seconds=options["expires"])
    # As celery beat marks what it sends.
    options["headers"] = {**(options.get("headers") or {}), "celery_beat_task": True}
    options["task_id"] = identity.scheduled_task_id(service, name, int(tick))
    args = [_now(each) for each in entry.get("args") or ()]
    kwargs = {key: _now(each) for key, each in (entry.get("kwargs") or {}).items()}
    task = app.tasks.get(entry["task"])
    send = task.apply_async if task else partial(app.send_task, entry["task"])
    try:
        # With no other origin: the same ids make the same message.
        publish_all(partial(send, args, kwargs, **options))
    except Exception as error:
        raise _fault(error) from error


def _now(argument: Any) -> Any:
    """Return an argument, a ``celery.beat.BeatLazyFunc`` evaluated: nothing else in JSON can be called."""
    return argument() if callable(argument) else argument


def _fault(error: BaseException) -> BaseException:
    """Return the ``ServiceError`` below an error of kombu; the error itself where there is none."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, ServiceError):
        found = found.__cause__ or found.__context__
    if isinstance(found, MessageRefusedError):
        return ConfigurationError(str(found))
    return found or error
