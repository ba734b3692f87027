"""Celery's ``beat_schedule``, fired by bridges: a tick is the same message each time it is fired."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from celery.beat import BeatLazyFunc
from celery.schedules import crontab

from pipeline.celery import make_app
from pipeline.errors import ConfigurationError, MessageRefusedError, ServiceUnavailableError
from pipeline.schedules.beatentries import beat_schedules
from pipeline.schedules.schedule import Schedule
from pipeline.sqs import OutgoingMessage
from pipeline.transport.envelope import open_envelope
from pipeline.wire import identity
from tests import builders
from tests.unit.test_bulk import FakeQueue, queue

__all__ = ["queue"]  # a fixture

SETTINGS = builders.settings(service_name="s")
TICK = 1_790_000_040.0


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with one task of its own."""
    made = make_app(SETTINGS)

    def own(*_: Any, **__: Any) -> None: ...

    made.task(own, name="own", shared=False)
    yield made
    made.close()


def the_schedule(app: Celery, **entry: Any) -> Schedule:
    app.conf.beat_schedule = {"clean": {"task": "own", "schedule": 60, **entry}}
    (schedule,) = beat_schedules(app, "s")
    return schedule


def arguments(message: OutgoingMessage) -> Any:
    """The arguments that a message carries."""
    return json.loads(json.loads(message.body)["body"])[:2]


@pytest.mark.parametrize(
    "options", [{}, {"countdown": 90, "expires": 300}, {"queue": "tasks.fifo", "headers": {"of": "ours"}}]
)
@pytest.mark.parametrize("task", ["own", "of.another.process"])
def test_a_tick_is_one_message(app: Celery, queue: FakeQueue, task: str, options: dict[str, Any]) -> None:
    """SQS drops the second: of another process, at another moment."""
    schedule = the_schedule(app, task=task, args=(1,), kwargs={"two": 2}, options=options)
    assert (schedule.name, schedule.runs) == ("beat:clean", f"task {task}")
    schedule.fire(TICK)
    schedule.fire(TICK)
    schedule.fire(TICK + 60)
    first, again, following = queue.taken
    assert first.deduplication_id == again.deduplication_id != following.deduplication_id
    headers = open_envelope(first.body).headers
    assert headers["id"] == identity.scheduled_task_id("s", "clean", int(TICK)) == first.group_id
    assert headers["task"] == task
    assert headers["celery_beat_task"] is True
    assert arguments(first) == [[1], {"two": 2}]
    if "countdown" in options:
        assert headers["eta"] == "2026-09-21T14:15:30+00:00"
        assert headers["expires"] == "2026-09-21T14:19:00+00:00"


def test_the_options_of_an_entry_stay_as_they_are(app: Celery, queue: FakeQueue) -> None:
    """The next tick has its own id; an argument that celery beat evaluates is evaluated."""
    numbers = iter(range(9))
    options = {"countdown": 5, "headers": {"a": "b"}}
    schedule = the_schedule(app, args=(BeatLazyFunc(lambda: next(numbers)),), options=options)
    schedule.fire(TICK)
    schedule.fire(TICK + 60)
    assert options == {"countdown": 5, "headers": {"a": "b"}}
    assert [arguments(each)[0] for each in queue.taken] == [[0], [1]]
    assert len({each.group_id for each in queue.taken}) == 2


def test_a_crontab_is_in_the_time_zone_of_the_app(app: Celery) -> None:
    """UTC unless it is set."""
    noon = the_schedule(app, schedule=crontab(minute=0, hour=12))
    assert noon.timing.text == "cron 0 12 * * * UTC both-days"
    app.conf.timezone = "Asia/Tokyo"
    vars(app).pop("timezone", None)
    noon = the_schedule(app, schedule=crontab(minute=0, hour=12))
    assert noon.timing.text == "cron 0 12 * * * Asia/Tokyo both-days"


def test_periodic_tasks_are_entries(app: Celery) -> None:
    """As celery beat reads them."""

    def add(sender: Celery, **_: Any) -> None:
        sender.add_periodic_task(timedelta(minutes=5), sender.signature("own"), name="added")

    app.on_after_finalize.connect(add)
    assert [each.name for each in beat_schedules(app, "s")] == ["beat:added"]


def test_an_entry_without_ticks_of_its_own_is_refused(app: Celery) -> None:
    """Only celery beat can run it."""
    app.conf.beat_schedule = {"dusk": {"task": "own", "schedule": object()}}
    with pytest.raises(ConfigurationError, match=r"entry 'dusk'.*BRIDGE_BEAT=false, and run celery beat"):
        list(beat_schedules(app, "s"))


def test_what_can_never_be_published_is_told_apart(app: Celery, queue: FakeQueue) -> None:
    """It is not fired again; a queue that is away is asked again."""
    with pytest.raises(ConfigurationError, match="serialized as"):
        the_schedule(app, options={"serializer": "pickle"}).fire(TICK)
    with pytest.raises(Exception, match="JSON serializable"):
        the_schedule(app, args=(object(),)).fire(TICK)
    queue.failing["own"] = (MessageRefusedError("too large"), 1)
    with pytest.raises(ConfigurationError, match="too large"):
        the_schedule(app).fire(TICK)
    queue.failing["own"] = (ServiceUnavailableError("away"), 9)
    with pytest.raises(ServiceUnavailableError, match="away"):
        the_schedule(app).fire(TICK)
