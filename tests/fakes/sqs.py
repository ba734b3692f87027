"""An in-memory SQS client of one FIFO queue that enforces SQS's quotas, with a clock that jumps.

Sources: "Amazon SQS message quotas", "FIFO queue quotas" and "High throughput for FIFO queues" (developer
guide).
"""

# ruff: noqa: N803 - the names of fields are SQS's

import itertools
import math
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from tests.fakes.limits import Bucket, Clock

Raw = dict[str, Any]

#: Seconds in which a second message with one deduplication id is dropped.
DEDUPLICATION = 300.0

#: The code of a request, or of one of its entries, over a quota.
THROTTLED = "ThrottlingException"


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """The quotas of a FIFO queue."""

    #: Messages received and not deleted; a receive returns no more then, and no error.
    in_flight: int = 120_000
    #: A receive looks for groups among so many of the first messages; it was 20,000 until 2024.
    window: int = 120_000
    #: Requests a second of each action.
    requests: float = 300
    #: Requests a second of each action that are about one group, which is in one partition.
    group_requests: float = math.inf


#: A queue of high throughput in us-east-1: the quota counts for each group.
HIGH_THROUGHPUT = QueueLimits(requests=70_000, group_requests=300)


@dataclass(eq=False)
class Stored:
    """A message in the queue."""

    number: int
    entry: Raw
    sent_at: float
    visible_at: float = 0.0
    handle: str = ""
    receives: int = 0

    @property
    def group(self) -> str:
        """Return its message group."""
        group: str = self.entry["MessageGroupId"]
        return group


class FakeSqs:
    """One queue's messages; the method names and fields are those of boto3's client. Threads may share it."""

    def __init__(self, limits: QueueLimits = HIGH_THROUGHPUT, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.limits = limits
        #: In the order in which they came.
        self.messages: OrderedDict[int, Stored] = OrderedDict()
        #: The most messages that were in it at once.
        self.most = 0
        self._numbers = itertools.count()
        self._in_flight: dict[str, Stored] = {}
        #: By deduplication id, when it was sent.
        self._ids: OrderedDict[str, float] = OrderedDict()
        self._requests: defaultdict[str, Bucket] = defaultdict(lambda: Bucket(limits.requests, self.clock))
        self._groups: defaultdict[tuple[str, str], Bucket] = defaultdict(
            lambda: Bucket(limits.group_requests, self.clock)
        )
        self._lock = threading.Lock()

    def send_message_batch(self, *, QueueUrl: str, Entries: list[Raw]) -> Raw:
        """Take messages, but none of a group over its quota."""

        def send(entry: Raw, groups: "_Groups") -> str | None:
            if not groups.is_open(entry["MessageGroupId"]):
                return THROTTLED
            self._put(entry)
            return None

        with self._lock:
            return self._batch("send", Entries, send)

    def receive_message(
        self, *, QueueUrl: str, MaxNumberOfMessages: int, VisibilityTimeout: int, **_: Any
    ) -> Raw:
        """Give out messages whose group has none in flight, in the order of each group."""
        with self._lock:
            self._count("receive")
            self._return_late()
            given = list(itertools.islice(self._receivable(), MaxNumberOfMessages))
            for stored in given:
                stored.visible_at = self.clock.now + VisibilityTimeout
                stored.receives += 1
                stored.handle = f"{stored.number}/{stored.receives}"
                self._in_flight[stored.handle] = stored
            return {"Messages": [_received(stored) for stored in given]}

    def delete_message_batch(self, *, QueueUrl: str, Entries: list[Raw]) -> Raw:
        """Delete by handle, unless it is no longer good."""

        def delete(entry: Raw, groups: "_Groups") -> str | None:
            stored = self._in_flight.get(entry["ReceiptHandle"])
            if stored is None:
                return "ReceiptHandleIsInvalid"
            if not groups.is_open(stored.group):
                return THROTTLED
            del self.messages[stored.number], self._in_flight[stored.handle]
            return None

        with self._lock:
            self._return_late()
            return self._batch("delete", Entries, delete)

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: list[str]) -> Raw:
        """Return its depth."""
        with self._lock:
            self._return_late()
            hidden = len(self._in_flight)
            return {
                "Attributes": {
                    "ApproximateNumberOfMessages": str(len(self.messages) - hidden),
                    "ApproximateNumberOfMessagesNotVisible": str(hidden),
                    "ApproximateNumberOfMessagesDelayed": "0",
                }
            }

    def _batch(self, action: str, entries: list[Raw], call: Callable[[Raw, "_Groups"], str | None]) -> Raw:
        self._count(action)
        groups = _Groups(lambda group: self._group(action, group))
        codes = {entry["Id"]: call(entry, groups) for entry in entries}
        return {
            "Successful": [{"Id": each} for each, code in codes.items() if code is None],
            "Failed": [
                {"Id": each, "Code": code, "SenderFault": True, "Message": "refused"}
                for each, code in codes.items()
                if code is not None
            ],
        }

    def _group(self, action: str, group: str) -> Bucket | None:
        return self._groups[action, group] if self.limits.group_requests < math.inf else None

    def _count(self, action: str) -> None:
        bucket = self._requests[action]
        if not bucket.is_open:
            raise ClientError({"Error": {"Code": THROTTLED, "Message": "Rate exceeded"}}, action)
        bucket.take(1)

    def _put(self, entry: Raw) -> None:
        now, name = self.clock.now, entry["MessageDeduplicationId"]
        while self._ids and now - next(iter(self._ids.values())) >= DEDUPLICATION:
            self._ids.popitem(last=False)
        if name not in self._ids:
            self._ids[name] = now
            number = next(self._numbers)
            self.messages[number] = Stored(number, dict(entry), now)
            self.most = max(self.most, len(self.messages))

    def _return_late(self) -> None:
        late = [handle for handle, stored in self._in_flight.items() if stored.visible_at <= self.clock.now]
        for handle in late:
            del self._in_flight[handle]

    def _receivable(self) -> Iterator[Stored]:
        room = self.limits.in_flight - len(self._in_flight)
        blocked = {stored.group for stored in self._in_flight.values()}
        for stored in itertools.islice(self.messages.values(), self.limits.window):
            if room <= 0:
                return
            if stored.group not in blocked:
                room -= 1
                yield stored


class _Groups:
    """The groups of one request, which counts once for each, however many of its messages are in it."""

    def __init__(self, bucket_of: Callable[[str], Bucket | None]) -> None:
        self._bucket_of = bucket_of
        self._open: dict[str, bool] = {}

    def is_open(self, group: str) -> bool:
        """Whether the group is below its quota; charge it."""
        if group not in self._open:
            bucket = self._bucket_of(group)
            self._open[group] = bucket is None or bucket.is_open
            if bucket is not None and self._open[group]:
                bucket.take(1)
        return self._open[group]


def _received(stored: Stored) -> Raw:
    entry = stored.entry
    return {
        "MessageId": f"m{stored.number}",
        "ReceiptHandle": stored.handle,
        "Body": entry["MessageBody"],
        "MessageAttributes": entry.get("MessageAttributes", {}),
        "Attributes": {
            "MessageGroupId": entry["MessageGroupId"],
            "MessageDeduplicationId": entry["MessageDeduplicationId"],
            "ApproximateReceiveCount": str(stored.receives),
            "SentTimestamp": str(int(stored.sent_at * 1000)),
        },
    }
