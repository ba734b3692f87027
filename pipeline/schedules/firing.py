"""Firing: a thread of bridges, of which one at a time has the turn at the schedules of the service."""

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from pipeline.author.registry import Registry
from pipeline.errors import PipelineError
from pipeline.jobs import JobStore
from pipeline.kafka import EventProducer
from pipeline.schedules.beatentries import beat_schedules, timezone_of
from pipeline.schedules.schedule import Schedule
from pipeline.schedules.scheduler import LOOK_EVERY, Scheduler
from pipeline.schedules.stageticks import stage_schedules
from pipeline.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

log = structlog.get_logger(__name__)

#: Seconds that the end of the block waits for a tick that is being fired, and for unacknowledged events.
ENDING = 10.0


@contextmanager
def firing_schedules(settings: Settings, registry: Registry, app: "Celery") -> Iterator[None]:
    """Fire the schedules of stages and of the app on a thread while the block runs; without any do nothing.

    Raise ``ConfigurationError`` for a schedule of the app that cannot be fired.
    """
    entries = list(beat_schedules(app, settings.service_name)) if settings.fires_beat else []
    if not entries and not registry.scheduled:
        yield
        return
    store, producer = JobStore(settings), EventProducer(settings, "schedules")
    try:
        stages = stage_schedules(settings, registry, store, producer, timezone_of(app))
        with _thread(store, [*stages, *entries]):
            yield
    finally:
        producer.close(ENDING)


def has_entries(settings: Settings, app: "Celery") -> bool:
    """Whether the app has entries of ``beat_schedule`` that bridges fire."""
    return settings.fires_beat and any(True for _ in beat_schedules(app, settings.service_name))


@contextmanager
def _thread(store: JobStore, schedules: Sequence[Schedule]) -> Iterator[None]:
    scheduler, stop = Scheduler(store.schedules, schedules), threading.Event()
    thread = threading.Thread(target=_run, args=(scheduler, stop), name="schedules", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(ENDING)


def _run(scheduler: Scheduler, stop: threading.Event) -> None:
    seconds = random.uniform(0.0, 1.0)  # noqa: S311 - jitter, not a secret
    while not stop.wait(seconds):
        try:
            seconds = scheduler.look()
        except PipelineError as error:
            log.warning("schedules.failed", error=str(error))
            seconds = LOOK_EVERY
        except Exception:
            log.exception("schedules.failed")
            seconds = LOOK_EVERY
    try:
        scheduler.end()
    except PipelineError as error:
        log.warning("schedules.failed", error=str(error))
