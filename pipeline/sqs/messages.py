"""What goes to and comes from a queue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

#: Bytes of one message and of one request's messages together: body and attributes (SQS quotas, 1 MiB).
MAX_MESSAGE_BYTES = 1_048_576

#: Seconds that a queue keeps a message from when it was sent: SQS's longest. Then it is gone without a word.
#: SQS's default, 4 days, is a long weekend's outage.
QUEUE_RETENTION = 14 * 86_400

#: Messages, handles or changes in one request (SQS quotas).
MAX_ENTRIES = 10


@dataclass(frozen=True, kw_only=True)
class OutgoingMessage:
    """One message to send to a FIFO queue."""

    #: Text; SQS refuses control characters other than tab, newline and carriage return.
    body: str
    #: Messages of one group are received in order, one at a time. 1 to 128 alphanumerics or punctuation.
    group_id: str
    #: A second message with the same id within 5 minutes is accepted and dropped. As ``group_id``.
    deduplication_id: str
    #: Text beside the body, at most 10.
    attributes: Mapping[str, str] = field(default_factory=dict)
    #: Bytes of what SQS takes that must stay free, for attributes the message will have when it is sent on.
    room: int = 0

    @cached_property
    def size(self) -> int:
        """Bytes that SQS counts: the body, and each attribute's name, type ("String") and value."""
        return len(self.body.encode()) + sum(
            len(name.encode()) + len("String") + len(value.encode())
            for name, value in self.attributes.items()
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedMessage:
    """One delivery of a message."""

    #: The same at every delivery of the message.
    message_id: str
    #: Of this delivery only: what delete and change_visibility ask for.
    receipt_handle: str
    body: str
    group_id: str
    deduplication_id: str
    #: Deliveries so far, this one included. SQS raises it for those waiting behind a failing head too.
    receive_count: int
    #: When it was sent: seconds since the epoch, on SQS's clock.
    sent_at: float
    attributes: Mapping[str, str]
    #: ``boottime()`` before the call was sent: it stays hidden at least until this plus what was asked.
    requested_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueDepth:
    """About how many messages a queue holds (SQS counts them approximately)."""

    available: int
    in_flight: int
    delayed: int


def received(entry: Mapping[str, Any], requested_at: float) -> ReceivedMessage:
    """A ``ReceivedMessage`` from one entry of a ReceiveMessage answer."""
    system = entry["Attributes"]
    return ReceivedMessage(
        message_id=entry["MessageId"],
        receipt_handle=entry["ReceiptHandle"],
        body=entry["Body"],
        group_id=system["MessageGroupId"],
        deduplication_id=system["MessageDeduplicationId"],
        receive_count=int(system["ApproximateReceiveCount"]),
        sent_at=int(system["SentTimestamp"]) / 1000,
        attributes={
            name: value["StringValue"]
            for name, value in entry.get("MessageAttributes", {}).items()
            if "StringValue" in value
        },
        requested_at=requested_at,
    )
