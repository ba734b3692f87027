"""Probes: find out whether the tasks of an open job are gone, while its queues are full of others (ADR 26).

A job is watched over several sweeps. Nothing about it may change meanwhile, or the watch begins anew:

1. It is seen, idle.
2. All events that its topics had after that are committed: what was an event is a message by now.
3. A marker is sent behind the messages of each group in which a task of the job must be.
4. Workers have received all of these markers. A group is delivered in order, so no task of the job is left.

A task that waits, runs, is hidden for a retry or held by a dead worker keeps the marker from being received.
A task that ended is recorded before its message is deleted, so the job has changed then.
"""

import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.deadletters.awaited import Awaited
from pipeline.deadletters.traffic import Traffic
from pipeline.errors import ServiceError
from pipeline.jobs import Job, StageProgress
from pipeline.kafka import Partition
from pipeline.sqs import OutgoingMessage, SqsQueue
from pipeline.wire.marker import Marker

#: Jobs with markers on their way at a time. Each has a message a group on the queue, and a full queue of jobs
#: that merely wait must not grow by as many again.
MOST_PROBED = 100
#: Jobs that are watched; of more, the first ones are forgotten.
MOST_WATCHED = 20_000


@dataclass(kw_only=True)
class _Watch:
    """One job, since it was seen in its present state."""

    state: Hashable
    seen_at: float
    #: The ends of partitions, read after it was seen.
    ends: Mapping[Partition, int] | None = None
    markers: Sequence[Marker] = ()
    received_at: float | None = None


@dataclass(kw_only=True)
class Probes:
    """The watched jobs of one process."""

    queue_named: Callable[[str], SqsQueue]
    #: Whether workers received all of some markers.
    are_received: Callable[[Collection[Marker]], bool]
    clock: Callable[[], float] = time.monotonic
    _watched: dict[str, _Watch] = field(default_factory=dict)

    def look(
        self, job: Job, progress: Sequence[StageProgress], traffic: Traffic, awaited: Callable[[], Awaited]
    ) -> float | None:
        """Take the next step for an idle job. Return since when its tasks are known to be gone, if they are.

        ``awaited`` is called if the job's groups are needed; what it raises goes to the caller.
        """
        state = _state(job, progress)
        watch = self._watched.get(job.job_id)
        if watch is None or watch.state != state:
            self._begin(job.job_id, state)
            return None
        if watch.received_at is not None:
            return watch.received_at
        if watch.markers:
            if self.are_received(watch.markers):
                watch.received_at = self.clock()
            return watch.received_at
        if traffic.read_at > watch.seen_at and self._under_way < MOST_PROBED:
            self._send(job, watch, traffic, awaited())
        return None

    def keep(self, running: Collection[str]) -> None:
        """Forget the probed jobs that do not run any more: ``running`` are those that do."""
        for job_id in self.probed - set(running):
            del self._watched[job_id]

    def forget(self, job_id: str) -> None:
        """Begin anew with a job."""
        self._watched.pop(job_id, None)

    @property
    def probed(self) -> set[str]:
        """The jobs with markers on their way."""
        return {job_id for job_id, watch in self._watched.items() if watch.markers}

    @property
    def _under_way(self) -> int:
        return len(self.probed)

    def _begin(self, job_id: str, state: Hashable) -> None:
        self._watched.pop(job_id, None)
        if len(self._watched) >= MOST_WATCHED:
            del self._watched[next(iter(self._watched))]
        self._watched[job_id] = _Watch(state=state, seen_at=self.clock())

    def _send(self, job: Job, watch: _Watch, traffic: Traffic, awaited: Awaited) -> None:
        """Send the markers, once all events of the time when the job was seen are tasks."""
        if watch.ends is None:
            watch.ends = traffic.ends()
        if not traffic.is_past(watch.ends, awaited.topics):
            return
        markers = []
        for queue, group_id in sorted(awaited.groups):
            marker = Marker.new(job.job_id)
            message = OutgoingMessage(**marker.message(group_id, queue).to_sqs())
            for error in self.queue_named(queue).send([message]):
                _raise(error)
            markers.append(marker)
        watch.markers = markers


def _state(job: Job, progress: Sequence[StageProgress]) -> Hashable:
    """Return what changes whenever something is recorded of a job."""
    stages = tuple((s.stage, s.state, s.done, s.failed, s.total, s.task_id) for s in progress)
    return job.updated_at, job.redrives, stages


def _raise(error: ServiceError | None) -> None:
    if error is not None:
        raise error
