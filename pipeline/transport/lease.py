"""Leases: the SQS messages that this process holds, and until when each may be started."""

import enum
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from pipeline.clock import boottime
from pipeline.errors import InvalidInputError
from pipeline.sqs import ReceivedMessage
from pipeline.transport.envelope import Envelope, open_envelope
from pipeline.wire.taskmessage import TRACEPARENT, TaskHeader, read_header

#: A start closer than this to the lease's end is refused: the clock of the service and ours, and the
#: way to the child, may take as long (seconds).
START_MARGIN = 1.0
#: SQS holds a message for 12 hours from its receive and refuses to extend it beyond (ChangeMessageVisibility,
#: API reference); less a margin (seconds).
LONGEST_HOLD = 12 * 3600 - 300.0


class Phase(enum.Enum):
    """The state of a held message. It only moves on, except back to ``WAITING`` after a lost connection."""

    #: in its lane, not yet given to the worker
    WAITING = "waiting"
    #: given to the worker: reserved or running
    DELIVERED = "delivered"
    #: its run is over; it is being settled, and the next of its lane may run
    FINISHED = "finished"
    #: settled: it is to be deleted
    DELETING = "deleting"
    #: it is to be given back: no longer extended, and a new delivery of it is a new lease
    RETURNING = "returning"


@dataclass(eq=False, kw_only=True, slots=True)
class Lease:
    """One message held. Once held, only ``Intake`` changes it, under its lock."""

    #: the message as received; replaced when SQS hands the same message out again
    message: ReceivedMessage
    #: the queue it came from, by name
    queue: str
    #: the task message in its body; None where that is no Celery message
    envelope: Envelope | None
    #: why it cannot become a task; None when it can
    problem: str | None = None
    #: the header of a stage's task; None for a plain task
    header: TaskHeader | None = None
    #: the outcome that the worker decided on without a run; None: it is to be run
    verdict: Any = None
    #: it runs on a loop, not in the pool
    on_loop: bool = False
    #: failed runs recorded for it before this delivery
    attempts: int = 0
    #: it may be killing workers: it is run while no other such message is
    suspect: bool = False
    #: the end of its visibility on the clock that counts suspended time (seconds, ``boottime``)
    deadline: float
    phase: Phase = field(default=Phase.WAITING)
    #: the delivery tag, another one at each delivery
    tag: str = ""
    #: when its run can no longer be going on (seconds, ``boottime``); set when it starts
    run_until: float | None = None
    #: a message before it went back after it had started: its run does not count
    void: bool = False

    @classmethod
    def of(cls, message: ReceivedMessage, queue: str, deadline: float) -> Self:
        """Return the lease of a message just received, with its envelope, or with what is wrong with it."""
        envelope, header, problem = None, None, None
        try:
            envelope = open_envelope(message.body)
            header = read_header(envelope.headers)
        except InvalidInputError as error:
            problem = str(error)
        return cls(
            message=message,
            queue=queue,
            envelope=envelope,
            header=header,
            problem=problem,
            deadline=deadline,
        )

    @property
    def task_id(self) -> str:
        """Return the task's id; the message's own where it is no Celery message."""
        return self.envelope.task_id if self.envelope else self.message_id

    @property
    def headers(self) -> Mapping[str, Any]:
        """Return Celery's headers; none where the message is no Celery message."""
        return self.envelope.headers if self.envelope else {}

    @property
    def traceparent(self) -> str | None:
        """Return the trace that the message continues."""
        traceparent: str | None = self.headers.get(TRACEPARENT)
        return traceparent

    @property
    def message_id(self) -> str:
        """Return SQS's id of the message, the same at every receive."""
        return self.message.message_id

    @property
    def lane(self) -> tuple[str, str]:
        """Return the lane it belongs to: its queue and message group."""
        return self.queue, self.message.group_id

    @property
    def start_by(self) -> float:
        """Return until when no other worker can be running it (seconds, ``boottime``)."""
        return self.deadline - START_MARGIN

    @property
    def last_end(self) -> float:
        """Return when SQS ends the lease however often it was extended (seconds, ``boottime``)."""
        return self.message.requested_at + LONGEST_HOLD

    def startable(self, run_seconds: float = 0) -> bool:
        """Whether it may start: no other worker can have it, now and for the length of the run."""
        now = boottime()
        return now < self.start_by and now + run_seconds < self.last_end


class LeaseLocks:
    """One lock for each lease, so that the heartbeat's extension never undoes the delay of a return."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._locked: set[Lease] = set()

    @contextmanager
    def lock_free(self, leases: Collection[Lease]) -> Iterator[list[Lease]]:
        """Lock those that no other thread has locked, for the block, and yield them."""
        with self._changed:
            locked = [lease for lease in leases if lease not in self._locked]
            self._locked.update(locked)
        try:
            yield locked
        finally:
            self._unlock(locked)

    @contextmanager
    def lock_all(self, leases: Collection[Lease]) -> Iterator[None]:
        """Lock all, for the block; wait until no other thread has locked one of them."""
        with self._changed:
            self._changed.wait_for(lambda: self._locked.isdisjoint(leases))
            self._locked.update(leases)
        try:
            yield
        finally:
            self._unlock(leases)

    def _unlock(self, leases: Collection[Lease]) -> None:
        with self._changed:
            self._locked.difference_update(leases)
            self._changed.notify_all()
