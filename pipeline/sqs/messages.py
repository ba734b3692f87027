"""Messages of a FIFO queue, and how they are packed into requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

#: Bytes of one message and of one request's messages together: body and attributes (SQS quotas, 1 MiB).
MAX_MESSAGE_BYTES = 1_048_576

#: Seconds that a queue keeps a message after it was sent: the longest that SQS allows. Then it is deleted
#: silently. SQS's default, 4 days, is an outage of a long weekend.
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
    #: Attributes beside the body, at most 10.
    attributes: Mapping[str, str] = field(default_factory=dict)
    #: Bytes below SQS's limit that must stay free, for attributes that are added when it is sent on.
    room: int = 0

    @cached_property
    def size(self) -> int:
        """Bytes that SQS counts: the body, and each attribute's name, type ("String") and value."""
        return len(self.body.encode()) + sum(
            len(name.encode()) + len("String") + len(value.encode())
            for name, value in self.attributes.items()
        )

    @property
    def fits(self) -> bool:
        """Whether SQS takes it with the room that it leaves."""
        return self.size + self.room <= MAX_MESSAGE_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedMessage:
    """One delivery of a message."""

    #: The same at every delivery of the message.
    message_id: str
    #: Identifies this delivery, for delete and change_visibility.
    receipt_handle: str
    body: str
    group_id: str
    deduplication_id: str
    #: Deliveries so far, with this one. SQS also raises it for messages that wait behind a failing head.
    receive_count: int
    #: When it was sent: seconds since the epoch, on SQS's clock.
    sent_at: float
    attributes: Mapping[str, str]
    #: ``boottime()`` before the call was sent: it stays hidden at least until this plus what was asked.
    requested_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueDepth:
    """The approximate number of messages in a queue, as SQS counts them."""

    available: int
    in_flight: int
    delayed: int


def received_message(entry: Mapping[str, Any], requested_at: float) -> ReceivedMessage:
    """Return the ``ReceivedMessage`` of one entry of a ReceiveMessage answer."""
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


def pack(messages: Sequence[OutgoingMessage], *, one_per_group: bool = False) -> list[list[int]]:
    """Return the requests to send, in order, each as positions in ``messages``.

    A request holds at most ten messages and 1 MiB.

    Each message must fit a request by itself. A request over the limit is refused as a whole, so the sum
    counts. With ``one_per_group`` a group's messages are in different requests, in order: SQS may fail the
    first of two in one request and accept the second, which would then be received out of order.
    """
    requests: list[list[int]] = []
    sizes: list[int] = []
    earliest: dict[str, int] = {}
    opened = 0
    for position, message in enumerate(messages):
        at = max(opened, earliest.get(message.group_id, 0)) if one_per_group else max(len(requests) - 1, 0)
        while at < len(requests) and not _fits(len(requests[at]), sizes[at] + message.size):
            at += 1
        if at == len(requests):
            requests.append([])
            sizes.append(0)
        requests[at].append(position)
        sizes[at] += message.size
        if one_per_group:
            earliest[message.group_id] = at + 1
            while opened < len(requests) and len(requests[opened]) == MAX_ENTRIES:
                opened += 1
    return requests


def waves(messages: Sequence[OutgoingMessage], requests: Sequence[list[int]]) -> list[list[list[int]]]:
    """Return packed requests in waves, in order: those of one wave share no message group.

    So they may be sent at once: no message can overtake one of its own group.
    """
    found: list[list[list[int]]] = []
    groups: set[str] = set()
    for request in requests:
        its = {messages[at].group_id for at in request}
        if not found or not groups.isdisjoint(its):
            found.append([])
            groups = set()
        found[-1].append(request)
        groups |= its
    return found


def _fits(entries: int, size: int) -> bool:
    return entries < MAX_ENTRIES and size <= MAX_MESSAGE_BYTES
