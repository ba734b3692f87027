"""The bridge as a process: settings, logs, signals, the health endpoint and the exit code."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import click
import structlog

from pipeline.author.registry import REGISTRY, Registry
from pipeline.bridge.agreement import Agreement
from pipeline.bridge.bridge import Bridge
from pipeline.bridge.delivery import SqsDelivery
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.pulse import Pulse
from pipeline.deadletters.periodicsweep import periodic_sweep
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.infra.startchecks import check_start, check_topics_of_others
from pipeline.kafka import KafkaAdmin
from pipeline.observe.embedded import serve_health
from pipeline.schedules.firing import firing_schedules, has_entries
from pipeline.settings import Settings
from pipeline.telemetry import logs, tracing
from pipeline.telemetry.terminal import clean

if TYPE_CHECKING:
    from celery import Celery

log = structlog.get_logger(__name__)


def run(app: "Celery", *, stop: threading.Event | None = None) -> None:
    """Run a bridge: turn Kafka events into tasks on SQS until the process is told to stop.

    A service's own bridge is this call::

        from pipeline.bridge import run
        from pipeline.celery import app

        if __name__ == "__main__":
            run(app)

    It loads the stages of TASK_MODULES and the consumers of CONSUMER_MODULES, checks topics, queues and
    table, serves health on HEALTH_PORT, sweeps for jobs that stopped moving, and consumes as one member of
    KAFKA_CONSUMER_GROUP. ``app`` is the app of ``pipeline.celery``, or any with ``pipeline.install``.
    ``stop``: return once it is set, with what is done committed; without it SIGTERM and SIGINT stop the
    bridge.

    Ends the process (``SystemExit``) with one line on stderr when it cannot go on: exit code 2 for a
    configuration that must change, 1 for a service that refuses. With USE_SQS_TASK_PROCESSING=false there is
    nothing to send to: call ``pipeline.inline.run`` then. ``celery -A pipeline bridge`` calls the one of the
    two that the settings ask for.
    """

    def send(settings: Settings, stop: threading.Event) -> None:
        if not settings.use_sqs_task_processing:
            raise ConfigurationError(
                "USE_SQS_TASK_PROCESSING=false: this bridge sends tasks to SQS. Start "
                '"celery -A pipeline bridge", or call pipeline.inline.run: both run the stages themselves.'
            )
        pulse = Pulse()
        with (
            checked(settings, pulse),
            periodic_sweep(settings, REGISTRY),
            agreed(settings) as (plans, topics),
            firing_schedules(settings, REGISTRY, app),
        ):
            consumers = REGISTRY.consumers.values()
            delivery = SqsDelivery.make(settings, plans, consumers)
            Bridge(settings, plans, topics, delivery, pulse, consumers).run(stop)

    run_process(app, send, stop)


def run_process(
    app: "Celery", bridge: Callable[[Settings, threading.Event], None], stop: threading.Event | None
) -> None:
    """Set up the process, run ``bridge`` in it until ``stop`` is set, and end it with an exit code on error.

    While KAFKA_ENABLED=false, and for an app without stages, it only fires the schedules of the app. No
    thread runs before ``bridge`` is called: it may fork.
    """
    stop = stop or _stop_on_signals()
    try:
        with _set_up(app) as settings:
            if not settings.kafka_enabled:
                effect = "nothing is taken from Kafka, nothing is committed"
                log.warning("bridge.off", switches=["KAFKA_ENABLED"], effect=effect)
                _fire_only(app, settings, stop)
            elif not REGISTRY.consumed_topics and has_entries(settings, app):
                log.info("bridge.schedules_only", reason="there are no stages")
                _fire_only(app, settings, stop)
            else:
                bridge(settings, stop)
    except PipelineError as error:
        log.critical("bridge.refused", error=str(error))
        click.echo(clean(f"Error: {error}"), err=True)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)


@contextmanager
def checked(settings: Settings, pulse: Pulse) -> Iterator[None]:
    """Serve health, and refuse to start where events or tasks would be lost. ``pulse``: of the bridge."""
    if not REGISTRY.consumed_topics:
        raise ConfigurationError(
            f"No stage in TASK_MODULES ({', '.join(settings.task_modules)}): there is nothing to consume."
        )
    with serve_health(settings, REGISTRY, pulse.stuck):
        check_start(settings, REGISTRY)
        check_topics_of_others(settings, REGISTRY)
        yield


@contextmanager
def agreed(settings: Settings) -> Iterator[tuple[KnownPlans, Sequence[str]]]:
    """Announce this bridge to the others of its service; give the plans they share and topics to consume."""
    agreement = Agreement.make(settings, REGISTRY)
    agreement.start()
    try:
        yield agreement.plans, agreement.topics(settings, KafkaAdmin(settings).topics())
    finally:
        agreement.close()


@contextmanager
def _set_up(app: "Celery") -> Iterator[Settings]:
    if not hasattr(app, "pipeline"):
        raise ConfigurationError(
            'A bridge needs an app with "pipeline.install(app)", or that of this project: '
            "celery -A pipeline bridge"
        )
    settings: Settings = app.pipeline.settings
    logs.log_to_stderr(settings.log_level)
    tracing.start(settings.service_name, os.environ)
    try:
        app.loader.init_worker()
        yield settings
    finally:
        tracing.stop()


def _fire_only(app: "Celery", settings: Settings, stop: threading.Event) -> None:
    # Stages get their ticks over Kafka.
    with serve_health(settings, REGISTRY, Pulse().stuck), firing_schedules(settings, Registry(), app):
        while not stop.is_set():
            # Not stop.wait: the signal handler, on this same thread, would wait for the lock inside.
            time.sleep(0.2)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        log.info("bridge.stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop
