"""Probes: find out whether the tasks of an open job are gone, while its queues are full of others (ADR 26).

A job is watched over several sweeps. Nothing about it may change meanwhile, or it is watched no longer:

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
from pipeline.jobs import Look
from pipeline.kafka import Partition
from pipeline.sqs import OutgoingMessage, SqsQueue
from pipeline.wire.marker import Marker

#: Jobs that are watched at a time: at least so many, at most, and of how many open jobs one. Each has a
#: message a group on the queue, and a full queue of jobs that merely wait must not grow by as many again.
LEAST_WATCHED, MOST_WATCHED, ONE_OF = 100, 1000, 1000


def most_watched(open_jobs: int) -> int:
    """Return how many of so many open jobs are watched at a time."""
    return min(MOST_WATCHED, max(LEAST_WATCHED, open_jobs // ONE_OF))


@dataclass(kw_only=True)
class _Watch:
    """One job, since it was seen in its present state."""

    state: Hashable
    seen_at: float
    awaited: Awaited
    #: The ends of partitions, read after it was seen.
    ends: Mapping[Partition, int] | None = None
    markers: Sequence[Marker] = ()
    received_at: float | None = None


@dataclass(kw_only=True)
class Probes:
    """The watched jobs of one process."""

    queue_named: Callable[[str], SqsQueue]
    clock: Callable[[], float] = time.monotonic
    _watched: dict[str, _Watch] = field(default_factory=dict)

    @property
    def watched(self) -> Collection[str]:
        """The ids of the watched jobs, those first that are watched for longest."""
        return self._watched.keys()

    def watch(self, look: Look, awaited: Awaited) -> None:
        """Begin with an idle job, which waits for these tasks."""
        self._watched[look.job.job_id] = _Watch(state=look.state, seen_at=self.clock(), awaited=awaited)

    def advance(self, look: Look, traffic: Traffic) -> float | None:
        """Take the next step with a watched job; return since when its tasks are known to be gone, or None.

        A job that changed is watched no longer.
        """
        watch = self._watched[look.job.job_id]
        if watch.state != look.state:
            self.forget(look.job.job_id)
            return None
        if watch.markers:
            if watch.received_at is None and look.markers >= {marker.id for marker in watch.markers}:
                watch.received_at = self.clock()
            return watch.received_at
        if traffic.read_at > watch.seen_at:
            self._send(look.job.job_id, watch, traffic)
        return None

    def forget(self, job_id: str) -> None:
        """Watch a job no longer."""
        self._watched.pop(job_id, None)

    def _send(self, job_id: str, watch: _Watch, traffic: Traffic) -> None:
        """Send the markers, once all events of the time when the job was seen are tasks."""
        if watch.ends is None:
            watch.ends = traffic.ends()
        if not traffic.is_past(watch.ends, watch.awaited.topics):
            return
        markers = []
        for queue, group_id in sorted(watch.awaited.groups):
            marker = Marker.new(job_id)
            message = OutgoingMessage(**marker.message(group_id, queue).to_sqs())
            for error in self.queue_named(queue).send([message]):
                _raise(error)
            markers.append(marker)
        watch.markers = markers


def _raise(error: ServiceError | None) -> None:
    if error is not None:
        raise error
