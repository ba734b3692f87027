"""``celery -A pipeline bridge``: the bridge as a Celery command."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click
import structlog
from celery import Celery

from config.settings import Settings
from consumers.bridge import Bridge
from pipeline.checks import check_start
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.health.embedded import serving_health
from pipeline.registry import REGISTRY
from pipeline.sweep import sweeping
from pipeline.telemetry import logs, tracing
from pipeline.worker.children import Children

log = structlog.get_logger(__name__)


@click.command()
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="one for each CPU",
    help="Processes that run stages while USE_SQS_TASK_PROCESSING=false.",
)
@click.pass_context
def bridge(context: click.Context, concurrency: int) -> None:
    """Turn Kafka events into tasks on SQS, until stopped by SIGTERM or Ctrl-C.

    Start as many as there are partitions at most; each takes its share. With USE_SQS_TASK_PROCESSING=false it
    runs the stages itself.
    """
    stop = _stop_on_signals()
    app = context.obj.app
    settings = getattr(app, "settings", None)
    if not isinstance(settings, Settings):
        raise click.UsageError("The bridge belongs to the app of this project: celery -A pipeline bridge")
    logs.log_to_stderr(settings.log_level)
    tracing.start(settings.service_name, os.environ)
    try:
        app.loader.init_worker()
        with running_stages(app, settings, concurrency) as children, serving_health(settings, REGISTRY):
            run(settings, stop, children)
    except PipelineError as error:
        log.critical("bridge.refused", error=str(error))
        click.echo(f"Error: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
    finally:
        tracing.stop()


@contextmanager
def running_stages(app: Celery, settings: Settings, concurrency: int) -> Iterator[Children | None]:
    """The children that stages run in, where tasks do not go to SQS; forked before there are threads."""
    if settings.use_sqs_task_processing or not settings.kafka_enabled:
        yield None
        return
    children = Children(app, concurrency)
    children.start()
    try:
        yield children
    finally:
        children.end()


def run(settings: Settings, stop: threading.Event, children: Children | None) -> None:
    """Bridge until ``stop`` is set; while Kafka is switched off, only wait."""
    if not settings.kafka_enabled:
        effect = "nothing is taken from Kafka, nothing is committed"
        log.warning("bridge.off", switches=["KAFKA_ENABLED"], effect=effect)
        while not stop.is_set():
            # Not stop.wait: the signal handler, on this same thread, would wait for the lock inside.
            time.sleep(0.2)
        return
    check_start(settings, REGISTRY)
    if children is None:
        with sweeping(settings, REGISTRY):
            Bridge(settings, REGISTRY).run(stop)
    else:
        # Nothing is to be swept: an event is committed only when nothing is left of it.
        Bridge(settings, REGISTRY, children).run(stop)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        log.info("bridge.stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop
