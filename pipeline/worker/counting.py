"""Counts what settlement is through with."""

from collections.abc import Iterable, Sequence

from pipeline.telemetry import metrics
from pipeline.worker.outcome import AlreadyDone, Cancelled, Discarded, Failed, Returned, Succeeded
from pipeline.worker.unrun import Unrun
from pipeline.worker.work import Work

_OUTCOMES = {
    Succeeded: "done",
    AlreadyDone: "already_done",
    Returned: "returned",
    Discarded: "discarded",
    Cancelled: "cancelled",
}


def begin(stages: Iterable[str]) -> None:
    """What should not happen is shown from 0 on: the first one is an increase."""
    for stage in stages:
        metrics.TASKS_FAILED.labels(stage)
        metrics.TASKS_SETTLED.labels(stage, "dead")


def count(work: Work) -> None:
    """A task that did not fail."""
    stage = _stage(work)
    metrics.TASKS_SETTLED.labels(stage, _OUTCOMES[type(work.outcome)]).inc()
    if isinstance(work.outcome, Succeeded):
        metrics.RUN_SECONDS.labels(stage).observe(work.outcome.seconds)


def count_failures(failed: Sequence[Work], given_up: Sequence[Work]) -> None:
    """Tasks that failed, and those of them that are not tried again."""
    dead = {id(work) for work in given_up}
    for work in failed:
        stage = _stage(work)
        metrics.TASKS_FAILED.labels(stage).inc()
        metrics.TASKS_SETTLED.labels(stage, "dead" if id(work) in dead else "retried").inc()
        if isinstance(work.outcome, Failed) and work.outcome.seconds:
            metrics.RUN_SECONDS.labels(stage).observe(work.outcome.seconds)


def _stage(work: Work) -> str:
    """The stage; for a plain task its name, one of those that the code defines."""
    if isinstance(work.request, Unrun) and not work.request.known:
        return "unknown"
    if work.header is not None:
        return work.header.stage
    return str(work.request.name) if work.request is not None else "unknown"
