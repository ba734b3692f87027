"""The sweep as a duty of a process that runs anyway: one of all such processes does it at a time."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from config.settings import Settings
from pipeline.errors import PipelineError
from pipeline.jobs import JobStore
from pipeline.patience import Abandoned
from pipeline.registry import Registry
from pipeline.sweep.sweep import IDLE, Sweep

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
            log.warning("sweep.failed", error=str(error))
        except Exception:
            log.exception("sweep.failed")


def _once(sweep: Sweep, idle: float) -> None:
    for finding in sweep.run(idle, MOST):
        if finding.kind != "waiting":
            log.warning(f"sweep.{finding.kind}", job_id=finding.job_id, text=finding.text)
