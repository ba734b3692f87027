"""The tasks that an open job waits for, by the queue and message group that each must be in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.author.registry import Registry
from pipeline.infra.needs import feeding
from pipeline.jobs import Job, JobStore, SplitRef, StageProgress
from pipeline.settings import Settings
from pipeline.wire import identity
from pipeline.wire.events import source_of
from pipeline.wire.identity import Part
from pipeline.wire.plans import Route
from pipeline.worker.settle.parts import page_tasks


@dataclass(frozen=True, kw_only=True)
class Awaited:
    """The tasks of a job that must come. Without a message or an event for any of them it is lost."""

    #: Queue and message group of each task.
    groups: frozenset[tuple[str, str]]
    #: The Kafka topics whose events make these tasks.
    topics: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class _Event:
    """An event that makes a task of a stage."""

    source: str
    id: str
    #: Its own, or that of the event before it.
    entity: str

    def task_id(self, stage: str, part: Part = None) -> str:
        return identity.task_id(self.source, self.id, stage, part)


class UnknownTasksError(Exception):
    """It cannot be known in which groups the tasks of a job are."""


def find_awaited(
    settings: Settings, registry: Registry, store: JobStore, job: Job, progress: Sequence[StageProgress]
) -> Awaited:
    """Return the tasks that the next steps of a job need. Raises ``UnknownTasksError``.

    Of a split the first part that is not done stands for all of them: without it the job cannot end.
    """
    events = _events(settings, job, progress)
    groups: set[tuple[str, str]] = set()
    topics: set[str] = set()
    for stage in progress:
        route = job.plan.routes.get(stage.stage)
        if route is None:
            raise UnknownTasksError("its record has no routes")
        event = events.get(route.consumes)
        is_over = stage.state in ("done", "failed") or job.plan.below([stage.stage]) <= job.done
        if is_over or event is None:
            continue
        queue = _queue(settings, registry, route)
        for part in _parts(store, job, stage, event):
            group = identity.group_id(event.task_id(route.name, part), event.entity, route.ordered)
            groups.add((queue, group))
        topics.update(feeding(settings, registry, route.consumes))
    if not groups:
        raise UnknownTasksError("no stage waits for a task")
    return Awaited(groups=frozenset(groups), topics=frozenset(topics))


def _events(settings: Settings, job: Job, progress: Sequence[StageProgress]) -> Mapping[str, _Event]:
    """Return the events that were emitted so far, by logical topic."""
    if job.event is None:
        raise UnknownTasksError("its record does not name its first event")
    events = {job.topic: _Event(source=job.event[0], id=job.event[1], entity=job.entity_id)}
    for stage in progress:
        route = job.plan.routes.get(stage.stage)
        if route and route.emits and stage.task_id:
            source = source_of(settings.service_name, stage.stage)
            before = events.get(route.consumes)
            entity = stage.entity or (before.entity if before else job.entity_id)
            event_id = identity.emitted_event_id(stage.task_id)
            events[route.emits] = _Event(source=source, id=event_id, entity=entity)
    return events


def _queue(settings: Settings, registry: Registry, route: Route) -> str:
    """Return the queue of a stage, if this version sends its tasks to the groups that the job's plan has."""
    stage = registry.by_name.get(route.name)
    if stage is None or (stage.ordered, stage.consumes) != (route.ordered, route.consumes):
        raise UnknownTasksError(f"stage {route.name} is another one in this version")
    return stage.queue or settings.task_queue


def _parts(store: JobStore, job: Job, stage: StageProgress, event: _Event) -> list[Part]:
    """Return the parts, in the sense of ``identity``, of which a message must exist."""
    split_id = event.task_id(stage.stage)
    split = SplitRef(job_id=job.job_id, stage=stage.stage, split_id=split_id)
    if stage.state != "running":
        # Its run, or its split before the seal.
        return [None]
    sealed = store.splits.sealed(split)
    if sealed is None:
        raise UnknownTasksError("another event of the stage was split")
    if page_tasks(sealed, None):
        raise UnknownTasksError("its parts are sent page by page")
    page = store.parts.page(job.job_id, stage.stage, limit=max(1, sealed.total))
    if sealed.keyed and job.plan.routes[stage.stage].ordered:
        raise UnknownTasksError("its parts are in the groups of their own entities")
    waiting = [row.ordinal for row in page.parts if row.state == "waiting"] if page else []
    # The split's own message sends the parts again until all were sent.
    return [None, waiting[0]] if waiting else ["gather"]
