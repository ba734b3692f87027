"""The ticks of stages: each is a job, submitted under a key that is a function of stage and tick."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pipeline.author.registry import Registry
from pipeline.author.stages import Stage
from pipeline.author.timing import Cron, Tick, Timing
from pipeline.client.submission import Submission, Submitter
from pipeline.errors import PipelineError
from pipeline.jobs import JobStore
from pipeline.kafka import EventProducer
from pipeline.schedules.schedule import Schedule
from pipeline.settings import Settings


def stage_schedules(
    settings: Settings, registry: Registry, store: JobStore, producer: EventProducer, timezone: str
) -> Iterator[Schedule]:
    """Yield the schedules of stages. ``timezone``: of cron expressions that name none."""
    for stage in registry.scheduled:
        assert stage.schedule is not None
        submitter = Submitter(settings, registry, store, producer, stage.name)
        yield Schedule(
            name=stage.name,
            runs=f"stage {stage.name}",
            timing=in_zone(stage.schedule, timezone),
            fire=partial(_submit, stage, submitter),
        )


def in_zone(timing: Timing, timezone: str) -> Timing:
    """Return the timing in this time zone, unless it names one."""
    if isinstance(timing, Cron) and timing.timezone is None:
        return replace(timing, timezone=timezone)
    return timing


def _submit(stage: Stage[Any, Any], submitter: Submitter, tick: float) -> None:
    at = datetime.fromtimestamp(tick, UTC)
    data = stage.tick_data(Tick(schedule=stage.name, at=at)).encode()
    key = f"schedule:{stage.name}:{at:%Y-%m-%dT%H:%M:%SZ}"
    # One entity: the ticks of an ordered stage run one at a time.
    submission = Submission(data=data, entity_id=stage.name, key=key)
    submitter.check(submission)
    (answer,) = submitter.submit([submission])
    if isinstance(answer, PipelineError):
        raise answer
