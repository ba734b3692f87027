"""The sweep as a duty of a process that runs anyway: one of all such processes does it at a time."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import structlog

from config.settings import Settings
from pipeline.errors import PipelineError
from pipeline.jobs import JobStore
from pipeline.patience import Abandoned
from pipeline.registry import Registry
from pipeline.sweep.finding import Kind
from pipeline.sweep.sweep import IDLE, Sweep
from pipeline.telemetry import metrics

log = structlog.get_logger(__name__)

#: Seconds from one sweep to the next, over all processes; and the open jobs looked at in one.
EVERY, MOST = 60.0, 500
#: Seconds that the end of the block waits for a sweep under way.
ENDING = 10.0


@contextmanager
def sweeping(
    settings: Settings, registry: Registry, every: float = EVERY, idle: float = IDLE
) -> Iterator[None]:
    """Sweep now and then on a thread while the block runs."""
    for kind in get_args(Kind):
        # From 0 on: the first one is an increase.
        metrics.SWEEP_FINDINGS.labels(kind)
    sweep, stop = Sweep(settings, registry), threading.Event()
    thread = threading.Thread(
        target=_work, args=(sweep, JobStore(settings), stop, every, idle), name="sweep", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        sweep.stop()
        thread.join(ENDING)
        sweep.close()


def _work(sweep: Sweep, store: JobStore, stop: threading.Event, every: float, idle: float) -> None:
    # Apart from each other, or all would ask whose turn it is at one moment.
    while not stop.wait(every * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter, not a secret
        try:
            if store.take_turn("sweep", every):
                _once(sweep, idle)
        except Abandoned:
            return
        except PipelineError as error:
            metrics.SWEEP_FINDINGS.labels("failed").inc()
            log.warning("sweep.failed", error=str(error))
        except Exception:
            metrics.SWEEP_FINDINGS.labels("failed").inc()
            log.exception("sweep.failed")


def _once(sweep: Sweep, idle: float) -> None:
    for finding in sweep.run(idle, MOST):
        metrics.SWEEP_FINDINGS.labels(finding.kind).inc()
        if finding.kind != "waiting":
            log.warning(f"sweep.{finding.kind}", job_id=finding.job_id, text=finding.text)
