"""The periodic sweep: a thread of long-lived processes, of which one sweeps at a time."""

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import structlog

from pipeline.author.registry import Registry
from pipeline.deadletters.finding import Kind
from pipeline.deadletters.jobsweep import IDLE, JobSweep
from pipeline.errors import PipelineError
from pipeline.jobs import JobStore, Passes
from pipeline.patience import Abandoned
from pipeline.settings import Settings
from pipeline.telemetry import metrics

log = structlog.get_logger(__name__)

#: Seconds between sweeps, over all processes; and the share of them in which open jobs are examined.
EVERY, SHARE = 60.0, 0.5
#: How many of those intervals the process that swept keeps the turn for: it sweeps again, unless it ended.
#: Not two: a process of an earlier version takes a turn that lasts longer for one of a clock that is ahead.
KEEPS = 1.5
#: Seconds that the end of the block waits for a sweep in progress.
ENDING = 10.0


@contextmanager
def periodic_sweep(
    settings: Settings, registry: Registry, every: float = EVERY, idle: float = IDLE
) -> Iterator[None]:
    """Sweep about every ``every`` seconds on a thread while the block runs."""
    for kind in get_args(Kind):
        # Begin at 0, so that the first finding is an increase.
        metrics.SWEEP_FINDINGS.labels(kind)
    sweep, stop = JobSweep(settings, registry), threading.Event()
    thread = threading.Thread(
        target=_run, args=(sweep, JobStore(settings).passes, stop, every, idle), name="sweep", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        sweep.stop()
        thread.join(ENDING)
        sweep.close()


def _run(sweep: JobSweep, passes: Passes, stop: threading.Event, every: float, idle: float) -> None:
    holder = str(uuid.uuid4())
    # Spread the processes, or all would ask for the turn at one moment.
    while not stop.wait(every * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter, not a secret
        try:
            while passes.take_turn(every * KEEPS, holder):
                begun = time.monotonic()
                _sweep(sweep, passes, idle, every * SHARE)
                if stop.wait(max(0.0, begun + every - time.monotonic())):
                    return
        except Abandoned:
            return
        except PipelineError as error:
            metrics.SWEEP_FINDINGS.labels("failed").inc()
            log.warning("sweep.failed", error=str(error))
        except Exception:
            metrics.SWEEP_FINDINGS.labels("failed").inc()
            log.exception("sweep.failed")


def _sweep(sweep: JobSweep, passes: Passes, idle: float, seconds: float) -> None:
    for finding in sweep.run(idle, seconds):
        metrics.SWEEP_FINDINGS.labels(finding.kind).inc()
        if finding.kind != "waiting":
            log.warning(f"sweep.{finding.kind}", job_id=finding.job_id, text=finding.text)
    if current := passes.load():
        metrics.SWEEP_PASSED.set(current.whole_at)
        metrics.SWEEP_OPEN_JOBS.set(max(current.seen, current.open_jobs))
