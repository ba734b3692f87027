"""A lease: one SQS message that this process holds, and until when it may be started."""

import enum
from dataclasses import dataclass, field
from typing import Any

from pipeline.clock import boottime
from pipeline.sqs import ReceivedMessage

#: A start closer than this to the lease's end is refused: the clock of the service and ours, and the
#: way to the child, may take as long (seconds).
START_MARGIN = 1.0


class Phase(enum.Enum):
    """Where a held message stands."""

    #: in its lane, not yet given to the worker
    WAITING = "waiting"
    #: given to the worker: reserved or running
    DELIVERED = "delivered"
    #: its run is over; it is being settled
    FINISHED = "finished"


@dataclass(eq=False, kw_only=True, slots=True)
class Lease:
    """One message held. Only ``Intake`` changes it, under its lock."""

    #: the message as received; replaced when SQS hands the same message out again
    message: ReceivedMessage
    #: the queue it came from, by name
    queue: str
    #: the decoded body: a Celery message (body, headers, properties, content-type, content-encoding)
    payload: dict[str, Any]
    #: why it is no Celery message (its payload is empty then); None when it is one
    problem: str | None = None
    #: the end of its visibility on the clock that counts suspended time (seconds, ``boottime``)
    deadline: float
    phase: Phase = field(default=Phase.WAITING)
    #: what the worker decided about it without running it, in the worker's own words; None: it is to be run
    verdict: Any = None
    #: failed runs recorded for it before this delivery
    attempts: int = 0
    #: when its run may no longer be going on (seconds, ``boottime``); set when it starts
    run_until: float | None = None

    @property
    def tag(self) -> str:
        """What the worker calls it: the delivery tag."""
        return self.message.message_id

    @property
    def lane(self) -> tuple[str, str]:
        """The lane it belongs to: its queue and message group."""
        return self.queue, self.message.group_id

    def startable(self) -> bool:
        """Whether it is still ours for certain, so that nobody else can be running it."""
        return boottime() < self.deadline - START_MARGIN
