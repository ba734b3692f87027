"""``celery -A pipeline bridge``: the bridge as a Celery command."""

import os
import signal
import sys
import threading
import time
from types import FrameType

import click
import structlog

from config.settings import Settings
from consumers.bridge import Bridge
from pipeline.checks import check_start
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.health.embedded import serving_health
from pipeline.registry import REGISTRY
from pipeline.sweep import sweeping
from pipeline.telemetry import logs, tracing

log = structlog.get_logger(__name__)


@click.command()
@click.pass_context
def bridge(context: click.Context) -> None:
    """Turn Kafka events into tasks on SQS, until stopped by SIGTERM or Ctrl-C.

    Start as many as there are partitions at most; each takes its share.
    """
    stop = _stop_on_signals()
    app = context.obj.app
    settings = getattr(app, "settings", None)
    if not isinstance(settings, Settings):
        raise click.UsageError("The bridge belongs to the app of this project: celery -A pipeline bridge")
    logs.log_to_stderr(settings.log_level)
    tracing.start(settings.service_name, os.environ)
    try:
        app.loader.import_default_modules()
        with serving_health(settings, REGISTRY):
            run(settings, stop)
    except PipelineError as error:
        log.critical("bridge.refused", error=str(error))
        click.echo(f"Error: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
    finally:
        tracing.stop()


def run(settings: Settings, stop: threading.Event) -> None:
    """Bridge until ``stop`` is set; while a side is switched off, only wait."""
    off = [
        name
        for name, on in (
            ("KAFKA_ENABLED", settings.kafka_enabled),
            ("USE_SQS_TASK_PROCESSING", settings.use_sqs_task_processing),
        )
        if not on
    ]
    if off:
        log.warning("bridge.off", switches=off, effect="nothing is taken from Kafka, nothing is committed")
        while not stop.is_set():
            # Not stop.wait: the signal handler, on this same thread, would wait for the lock inside.
            time.sleep(0.2)
        return
    check_start(settings, REGISTRY)
    with sweeping(settings, REGISTRY):
        Bridge(settings, REGISTRY).run(stop)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        log.info("bridge.stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop
