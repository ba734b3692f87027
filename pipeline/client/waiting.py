"""Wait until jobs have ended."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from pipeline.jobs import Job, JobState, JobStore

#: Seconds between two reads of the jobs that still run: short at first, for a job of one quick stage.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0


def pauses() -> Iterator[float]:
    """Yield the seconds to wait between reads, longer each time."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


def seconds_left(job_id: str, pause: float, end: float | None) -> float:
    """Return the seconds of the next pause; raise ``TimeoutError`` at the end, a moment of time.monotonic."""
    if end is None:
        return pause
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"Job {job_id} still runs.")
    return min(pause, left)


def ended_jobs(
    store: JobStore,
    job_ids: Iterable[str],
    timeout: float | None = None,
    on_look: Callable[[Sequence[str]], None] | None = None,
) -> Iterator[Job]:
    """Yield each job when it has ended (complete, failed or cancelled), in the order in which they end.

    Stop after ``timeout`` seconds, without the jobs that still run; None waits for ever. A job without a
    record is expected to get one: its submitter may be a moment behind. ``on_look`` is called after each read
    with the ids of the jobs that still run.
    """
    waiting = list(dict.fromkeys(job_ids))
    end = None if timeout is None else time.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        left = []
        for job_id in waiting:
            job = store.records.get(job_id)
            if job is None or job.state is JobState.RUNNING:
                left.append(job_id)
            else:
                yield job
        pause = FIRST_PAUSE if len(left) < len(waiting) else min(2 * pause, LONGEST_PAUSE)
        waiting = left
        if not waiting:
            return
        if on_look:
            on_look(waiting)
        if end is not None and time.monotonic() >= end:
            return
        time.sleep(pause if end is None else max(0.0, min(pause, end - time.monotonic())))
