"""Gives a reason to dead letters that SQS itself moved, because no worker lived to report on them.

In the order of any dead letter: event on the errors topic, the message back on the queue with its reason,
failure recorded in its job, and only then is the message without a reason deleted. It may be repeated.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from pipeline.deadletters.letter import DeadLetter
from pipeline.deadletters.queuescan import QueueScan
from pipeline.deadletters.reading import open_task
from pipeline.jobs import JobStore, PastAttempts
from pipeline.sqs import ReceivedMessage
from pipeline.wire.failure import Failure
from pipeline.worker.settle.deadletter import DeadLetters
from pipeline.worker.settle.outgoingletter import OutgoingLetter

#: The ``error`` of a task that SQS moved.
ERROR = "ReceivedTooOften"


class Explainer:
    """Gives reasons to letters of a scan that have none."""

    def __init__(self, store: JobStore, dead_letters: DeadLetters) -> None:
        self._store = store
        self._dead_letters = dead_letters

    def explain(self, scan: QueueScan, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Give a reason to each letter that has none, and return those letters."""
        bare = [letter for letter in letters if not letter.explained]
        if not bare:
            return []
        keys = {letter.id: (letter.task_id or letter.id, letter.id) for letter in bare}
        past = self._store.attempts.look_up(keys.values())
        self._dead_letters.dead_letter_messages([_outgoing(letter, past[keys[letter.id]]) for letter in bare])
        # A message that cannot be deleted is explained again, under the same ids.
        scan.delete([letter.raw for letter in bare if isinstance(letter.raw, ReceivedMessage)])
        return bare


def _outgoing(letter: DeadLetter, past: PastAttempts) -> OutgoingLetter:
    assert isinstance(letter.raw, ReceivedMessage)
    _, header, _ = open_task(letter.raw.body)
    failure = replace(
        Failure(**letter.facts()),
        task_id=letter.task_id or letter.id,
        attempts=past.count,
        # A worker may have given up on it and died, or the queue refused its letter.
        error=past.verdict.error if past.verdict else ERROR,
        reason=past.verdict.message if past.verdict else letter.reason,
        traceback=past.verdict.traceback if past.verdict else "",
        worker=None,
        failed_at=time.time(),
    )
    return OutgoingLetter(message=letter.raw, failure=failure, header=header, headers=letter.headers)
