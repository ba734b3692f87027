"""When each stage of a job was at work, as shares of the job's time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.jobs import StageProgress
from pipeline.registry import Registry
from pipeline.web.model import JobDetail


@dataclass(frozen=True, kw_only=True)
class Span:
    """From the stage's event to its own end, or to now: 0 is the job's submission, 1 its end."""

    begin: float
    end: float


def spans(view: JobDetail, registry: Registry) -> Mapping[str, Span | None]:
    """A span for each stage; None for one that has not begun.

    A stage begins when the one before it ends: what of that time it waited for a worker nobody records.
    """
    progress = {row.progress.stage: row.progress for row in view.stages}
    start = view.job.submitted_at
    until = view.job.closed_at if view.job.closed_at is not None else view.taken_at
    whole = max(until - start, 0.001)
    found: dict[str, Span | None] = {}
    for name, stage in progress.items():
        began = _began(progress, _before(name, registry), start)
        ended = stage.finished_at if stage.finished_at is not None else until
        found[name] = None
        if began is not None:
            found[name] = Span(begin=_share(began - start, whole), end=_share(ended - start, whole))
    return found


def _before(name: str, registry: Registry) -> Sequence[str]:
    """The stages whose events a stage consumes."""
    stage = registry.by_name.get(name)
    return [each.name for each in registry.by_name.values() if stage and each.emits == stage.consumes]


def _began(progress: Mapping[str, StageProgress], before: Sequence[str], start: float) -> float | None:
    """When its event was there: the submission, for the first of a job; None while none is."""
    own = [progress[name] for name in before if name in progress]
    if not own:
        return start
    ends = [each.finished_at for each in own if each.finished_at is not None]
    return min(ends, default=None)


def _share(seconds: float, whole: float) -> float:
    return min(max(seconds / whole, 0.0), 1.0)
