"""Which messages share a request: at most ten, at most 1 MiB together, if asked one of each group."""

from collections.abc import Sequence

from pipeline.sqs.messages import MAX_ENTRIES, MAX_MESSAGE_BYTES, OutgoingMessage


def pack(messages: Sequence[OutgoingMessage], *, one_per_group: bool = False) -> list[list[int]]:
    """The requests to send, in order, each as positions in ``messages``.

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


def _fits(entries: int, size: int) -> bool:
    return entries < MAX_ENTRIES and size <= MAX_MESSAGE_BYTES
