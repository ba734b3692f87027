"""Scan of the SQS dead-letter queue: reads every message once and puts it back.

SQS shows a queue only by handing its messages out, and hands out the same ones again unless they are held.
So a scan holds every message until it ends, and then releases them: nothing is taken away, and meanwhile
others see less. If the process dies, the messages are visible again after ``HOLD`` seconds. Only receive
counts of the dead-letter queue rise, from which SQS moves nothing; no live queue is received from.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from pipeline.clock import boottime
from pipeline.errors import ServiceError
from pipeline.sqs import ReceivedMessage, SqsQueue

log = structlog.get_logger(__name__)

#: Seconds that a message stays hidden from others unless extended: after a kill it is back by then.
HOLD = 60
#: Seconds to wait for a first message: without waiting, SQS asks only a part of its servers.
WAIT = 1
#: The most messages held at once; SQS hands out no more than 120,000 of a FIFO queue (quotas).
MOST = 100_000
#: Messages in one request, and parallel requests when many are extended or released.
BATCH, THREADS = 10, 8


@dataclass(frozen=True, slots=True)
class _Held:
    handle: str
    #: When it becomes visible again, on the clock that counts suspended time.
    until: float


class QueueScan:
    """One scan. Use it in a ``with`` block: at its end the held messages go back."""

    def __init__(self, queue: SqsQueue, clock: Callable[[], float] = boottime) -> None:
        self._queue = queue
        self._clock = clock
        #: By message id, the first to be extended in front.
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._seen: set[str] = set()
        #: Whether the end was reached.
        self.complete = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def batches(self) -> Iterator[list[ReceivedMessage]]:
        """Yield every message once, up to ten at a time; all of them stay held until the scan ends.

        Of a message group it yields up to ten, unless the caller deletes those: SQS hands out no more of a
        group that is held. Messages with a reason are groups of their own.
        """
        while len(self._held) < MOST:
            self.extend()
            messages = self._queue.receive(BATCH, wait_seconds=WAIT, visibility_seconds=HOLD)
            if not messages:
                self.complete = True
                return
            for message in messages:
                # A message whose hold ended is handed out again, with a new handle.
                self._held[message.message_id] = _Held(message.receipt_handle, message.requested_at + HOLD)
            new = [message for message in messages if message.message_id not in self._seen]
            self._seen |= {message.message_id for message in new}
            if new:
                yield new

    def unseen(self) -> int:
        """Return about how many messages it missed: held elsewhere, or behind others of their group."""
        depth = self._queue.depth()
        return max(0, depth.available + depth.in_flight + depth.delayed - len(self._held))

    def extend(self) -> None:
        """Extend the holds that end soon. Call it at least every ``HOLD / 2`` seconds."""
        soon = self._clock() + HOLD / 2
        due: list[str] = []
        for message_id, held in self._held.items():
            if held.until > soon:
                break
            due.append(message_id)
        for message_id in due:
            self._held.move_to_end(message_id)
        if due:
            self._change(due, HOLD)

    def delete(self, messages: Sequence[ReceivedMessage]) -> list[ServiceError | None]:
        """Delete messages for good; answer None or the error for each."""
        handles = [self._handle_of(message) for message in messages]
        answers = self._queue.delete(handles)
        for message, error in zip(messages, answers, strict=True):
            if error is None:
                self._held.pop(message.message_id, None)
        return answers

    def release(self) -> None:
        """Make all held messages visible again."""
        held, self._held = list(self._held.values()), OrderedDict()
        chunks = [held[start : start + BATCH] for start in range(0, len(held), BATCH)]
        changes = [[(each.handle, 0) for each in chunk] for chunk in chunks]
        with ThreadPoolExecutor(THREADS) as pool:
            answers = [error for batch in pool.map(self._queue.change_visibility, changes) for error in batch]
        if refused := [error for error in answers if error is not None]:
            # They are visible again when their holds end.
            log.warning("dlq.not_released", letters=len(refused), error=str(refused[0]))

    def _change(self, message_ids: list[str], seconds: int) -> None:
        chunks = [message_ids[start : start + BATCH] for start in range(0, len(message_ids), BATCH)]
        now = self._clock()

        def change(chunk: list[str]) -> list[ServiceError | None]:
            return self._queue.change_visibility([(self._held[each].handle, seconds) for each in chunk])

        with ThreadPoolExecutor(THREADS) as pool:
            for chunk, answers in zip(chunks, pool.map(change, chunks), strict=True):
                for message_id, error in zip(chunk, answers, strict=True):
                    if error is None:
                        self._held[message_id] = _Held(self._held[message_id].handle, now + seconds)
                    else:
                        # Received elsewhere by now, or deleted.
                        del self._held[message_id]

    def _handle_of(self, message: ReceivedMessage) -> str:
        held = self._held.get(message.message_id)
        return held.handle if held else message.receipt_handle
