"""FIFO queues: send, receive, delete, visibility and depth, in batches, with a result for each entry."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pipeline.aws.errors import VENDOR_ERRORS
from pipeline.clock import boottime
from pipeline.errors import (
    MessageRefusedError,
    ServiceError,
    ServiceRefusedError,
    ServiceUnavailableError,
)
from pipeline.sqs.errors import entry_error, sqs_error
from pipeline.sqs.messages import (
    MAX_ENTRIES,
    MAX_MESSAGE_BYTES,
    OutgoingMessage,
    QueueDepth,
    ReceivedMessage,
    pack,
    received_message,
    waves,
)

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: The attributes that ``ReceivedMessage`` holds. Each costs bytes and parsing on the hot path.
RECEIVED_ATTRIBUTES = (
    "ApproximateReceiveCount",
    "MessageDeduplicationId",
    "MessageGroupId",
    "SentTimestamp",
)

#: Requests of one ``send`` that are under way at once. The 26 of 256 parts take 4 round trips, not 26.
SENT_AT_ONCE = 8

_DEPTH = {
    "available": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}


class SqsQueue:
    """A FIFO queue by its URL. Threads may share it.

    Calls are bounded: after botocore's few tries they raise a ``ServiceError`` whose class is the decision.
    Methods that take many entries return a result for each, in their order: None (done) or its error. If a
    whole request fails, each of its entries gets that error; a fault of one entry is a MessageRefusedError.
    """

    def __init__(
        self,
        client: "SQSClient",
        url: str,
        shrink: Callable[[OutgoingMessage], OutgoingMessage] | None = None,
    ) -> None:
        """``shrink`` returns a message that SQS takes for one that is too large, or raises a ServiceError."""
        self._client = client
        self._shrink = shrink
        self.url = url
        self.name = url.rsplit("/", 1)[1]

    def send(
        self, messages: Sequence[OutgoingMessage], *, one_per_group: bool = False
    ) -> list[ServiceError | None]:
        """Send any number of messages, packed into requests by count and bytes; a few requests at once.

        Messages of a group go in order. With ``one_per_group`` also one a request, and after a failure the
        rest of its group is not sent (their results say so): sending the rest again keeps the order.
        """
        messages, results = self._fitted(messages)
        broken = {messages[at].group_id for at, error in enumerate(results) if error}
        sendable = [at for at, error in enumerate(results) if error is None]
        fitting = [messages[at] for at in sendable]
        for wave in waves(fitting, pack(fitting, one_per_group=one_per_group)):
            requests = [[sendable[at] for at in request] for request in wave]
            if one_per_group and broken:
                requests = [self._hold_back(each, messages, broken, results) for each in requests]
            answers = self._send_requests([[messages[at] for at in request] for request in requests])
            for positions, errors in zip(requests, answers, strict=True):
                for at, error in zip(positions, errors, strict=True):
                    results[at] = error
                    if error:
                        broken.add(messages[at].group_id)
        return results

    def receive(
        self,
        max_messages: int = MAX_ENTRIES,
        *,
        wait_seconds: int,
        visibility_seconds: int,
        attempt_id: str | None = None,
    ) -> list[ReceivedMessage]:
        """Return up to ten messages; wait ``wait_seconds`` (no more than the settings') for the first one.

        They stay hidden for ``visibility_seconds``. Repeat a call whose answer was lost with the same
        ``attempt_id``: within 5 minutes SQS returns the same messages, which would stay hidden otherwise.
        """
        request: dict[str, Any] = {
            "QueueUrl": self.url,
            "MaxNumberOfMessages": min(max_messages, MAX_ENTRIES),
            "WaitTimeSeconds": wait_seconds,
            "VisibilityTimeout": visibility_seconds,
            "MessageSystemAttributeNames": RECEIVED_ATTRIBUTES,
            "MessageAttributeNames": ("All",),
        }
        if attempt_id:
            request["ReceiveRequestAttemptId"] = attempt_id
        requested_at = boottime()
        answer = self._call(self._client.receive_message, "receive from", request)
        return [received_message(entry, requested_at) for entry in answer.get("Messages", ())]

    def delete(self, handles: Sequence[str]) -> list[ServiceError | None]:
        """Delete deliveries by receipt handle. An expired handle is a ``MessageRefusedError``."""
        entries = [{"ReceiptHandle": handle} for handle in handles]
        return self._in_batches(self._client.delete_message_batch, "delete from", entries)

    def change_visibility(self, changes: Sequence[tuple[str, int]]) -> list[ServiceError | None]:
        """Hide deliveries for some seconds from now, given as (receipt handle, seconds); 0 releases them.

        SQS allows 12 hours in all from the first receive. An expired handle is a
        ``MessageRefusedError``.
        """
        entries = [{"ReceiptHandle": handle, "VisibilityTimeout": seconds} for handle, seconds in changes]
        return self._in_batches(
            self._client.change_message_visibility_batch, "change visibility of messages in", entries
        )

    def depth(self) -> QueueDepth:
        """Return the approximate number of messages that wait, are in flight and are delayed."""
        request = {"QueueUrl": self.url, "AttributeNames": list(_DEPTH.values())}
        answer = self._call(self._client.get_queue_attributes, "read the attributes of", request)
        attributes = answer.get("Attributes", {})
        return QueueDepth(**{field: int(attributes.get(name, 0)) for field, name in _DEPTH.items()})

    def purge(self) -> int:
        """Delete all messages, also those in flight; return about how many waited. SQS takes up to 60 s."""
        waiting = self.depth().available
        self._call(self._client.purge_queue, "purge", {"QueueUrl": self.url})
        return waiting

    def _fitted(
        self, messages: Sequence[OutgoingMessage]
    ) -> tuple[Sequence[OutgoingMessage], list[ServiceError | None]]:
        """Return the messages, those that are too large shrunk, and the error of each that still is."""
        fitted, results = list(messages), list[ServiceError | None]([None] * len(messages))
        for at, message in enumerate(messages):
            if message.fits:
                continue
            try:
                if self._shrink is not None:
                    fitted[at] = self._shrink(message)
            except ServiceError as error:
                kind = MessageRefusedError if isinstance(error, ServiceRefusedError) else type(error)
                results[at] = kind(f"{self._too_large(message)}, and it could not be made smaller. {error}")
            else:
                if not fitted[at].fits:
                    results[at] = MessageRefusedError(self._too_large(fitted[at]))
        return fitted, results

    def _too_large(self, message: OutgoingMessage) -> str:
        room = f" with {message.room} for what may be added" if message.room else ""
        return (
            f"Could not send to {self.name}: the message has {message.size} bytes, SQS takes "
            f"{MAX_MESSAGE_BYTES}{room}"
        )

    @staticmethod
    def _hold_back(
        positions: list[int],
        messages: Sequence[OutgoingMessage],
        broken: set[str],
        results: list[ServiceError | None],
    ) -> list[int]:
        """Return ``positions`` without those whose group had a failure; those get their result here."""
        going = [at for at in positions if messages[at].group_id not in broken]
        for at in set(positions).difference(going):
            results[at] = ServiceUnavailableError(
                f"Not sent: a message before it in group {messages[at].group_id} failed"
            )
        return going

    def _send_requests(self, requests: list[list[OutgoingMessage]]) -> list[list[ServiceError | None]]:
        if len(requests) == 1:
            return [self._send_request(requests[0])]
        with ThreadPoolExecutor(min(SENT_AT_ONCE, len(requests)), thread_name_prefix="send") as pool:
            return list(pool.map(self._send_request, requests))

    def _send_request(self, messages: list[OutgoingMessage]) -> list[ServiceError | None]:
        entries = [_outgoing(message) for message in messages]
        return self._in_batches(self._client.send_message_batch, "send to", entries)

    def _in_batches(
        self, call: Callable[..., Any], action: str, entries: list[dict[str, Any]]
    ) -> list[ServiceError | None]:
        results: list[ServiceError | None] = []
        for start in range(0, len(entries), MAX_ENTRIES):
            results += self._batch(call, action, entries[start : start + MAX_ENTRIES])
        return results

    def _batch(
        self, call: Callable[..., Any], action: str, entries: list[dict[str, Any]]
    ) -> list[ServiceError | None]:
        """Send one request. Entries are numbered here, as the answer names them by number."""
        for number, entry in enumerate(entries):
            entry["Id"] = str(number)
        try:
            answer = self._call(call, action, {"QueueUrl": self.url, "Entries": entries})
        except ServiceError as error:
            return [error] * len(entries)
        results: list[ServiceError | None] = [None] * len(entries)
        failed = answer.get("Failed", ())
        for entry in failed:
            results[int(entry["Id"])] = entry_error(entry, f"{action} {self.name}")
        if len(answer.get("Successful", ())) + len(failed) < len(entries):
            self._mark_unanswered(answer, results, action)
        return results

    def _mark_unanswered(
        self, answer: Mapping[str, Any], results: list[ServiceError | None], action: str
    ) -> None:
        """Mark entries that the answer does not name as failed: they are not known to be done."""
        answered = {int(e["Id"]) for part in ("Successful", "Failed") for e in answer.get(part, ())}
        for number in range(len(results)):
            if number not in answered:
                results[number] = ServiceUnavailableError(
                    f"Could not {action} {self.name}: no answer for entry"
                )

    def _call(self, call: Callable[..., Any], action: str, request: dict[str, Any]) -> Mapping[str, Any]:
        try:
            answer: Mapping[str, Any] = call(**request)
        except VENDOR_ERRORS as error:
            raise sqs_error(error, f"{action} {self.name}") from error
        return answer


def _outgoing(message: OutgoingMessage) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "MessageBody": message.body,
        "MessageGroupId": message.group_id,
        "MessageDeduplicationId": message.deduplication_id,
    }
    if message.attributes:
        entry["MessageAttributes"] = {
            name: {"DataType": "String", "StringValue": value} for name, value in message.attributes.items()
        }
    return entry
