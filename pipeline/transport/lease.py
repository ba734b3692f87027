"""A lease: one SQS message that this process holds, and until when it may be started."""

import enum
from dataclasses import dataclass, field
from typing import Any

from pipeline.clock import boottime
from pipeline.sqs import ReceivedMessage
from pipeline.taskmessage import TaskHeader

#: A start closer than this to the lease's end is refused: the clock of the service and ours, and the
#: way to the child, may take as long (seconds).
START_MARGIN = 1.0
#: SQS holds a message for 12 hours from its receive and refuses to extend it beyond (ChangeMessageVisibility,
#: API reference); less a margin (seconds).
LONGEST_HOLD = 12 * 3600 - 300.0


class Phase(enum.Enum):
    """Where a held message stands. It only moves on, but for ``WAITING`` after a lost connection."""

    #: in its lane, not yet given to the worker
    WAITING = "waiting"
    #: given to the worker: reserved or running
    DELIVERED = "delivered"
    #: its run is over; it is being settled
    FINISHED = "finished"
    #: settled: it is to be deleted
    DELETING = "deleting"
    #: it is to come again: no longer extended, and a new delivery of it is a new lease
    RETURNING = "returning"


@dataclass(eq=False, kw_only=True, slots=True)
class Lease:
    """One message held. Once held, only ``Intake`` changes it, under its lock."""

    #: the message as received; replaced when SQS hands the same message out again
    message: ReceivedMessage
    #: the queue it came from, by name
    queue: str
    #: the decoded body: a Celery message (body, headers, properties, content-type, content-encoding)
    payload: dict[str, Any]
    #: why it cannot become a task; None when it can
    problem: str | None = None
    #: what a stage's task knows of itself; None for a plain task
    header: TaskHeader | None = None
    #: what the worker decided about it without running it, in the worker's own words; None: it is to be run
    verdict: Any = None
    #: failed runs recorded for it before this delivery
    attempts: int = 0
    #: it may be killing workers: it is run while no other such message is
    suspect: bool = False
    #: the end of its visibility on the clock that counts suspended time (seconds, ``boottime``)
    deadline: float
    phase: Phase = field(default=Phase.WAITING)
    #: what the worker calls it while it is delivered: another name at each delivery
    tag: str = ""
    #: when its run can no longer be going on (seconds, ``boottime``); set when it starts
    run_until: float | None = None

    @property
    def message_id(self) -> str:
        """SQS's name of the message, the same at every receive."""
        return self.message.message_id

    @property
    def lane(self) -> tuple[str, str]:
        """The lane it belongs to: its queue and message group."""
        return self.queue, self.message.group_id

    @property
    def start_by(self) -> float:
        """Until when it is ours for certain, and nobody else can be running it (seconds, ``boottime``)."""
        return self.deadline - START_MARGIN

    @property
    def last_end(self) -> float:
        """When SQS lets it go however often it was extended (seconds, ``boottime``)."""
        return self.message.requested_at + LONGEST_HOLD

    def startable(self, run_seconds: float = 0) -> bool:
        """Whether it is ours for certain, and for long enough."""
        now = boottime()
        return now < self.start_by and now + run_seconds < self.last_end
