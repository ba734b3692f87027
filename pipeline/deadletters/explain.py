"""Explains dead letters that SQS itself moved: nobody lived to tell, so it is told here.

In the order of any dead letter: event on the errors topic, the message back on the queue with its reason,
failure recorded in its job, and only then is the message that had none deleted. Doing it again does no harm.
"""

import time
from collections.abc import Sequence

from pipeline.deadletters.letter import DeadLetter
from pipeline.deadletters.tasks import open_task
from pipeline.deadletters.walk import Walk
from pipeline.jobs import JobStore
from pipeline.sqs import ReceivedMessage
from pipeline.worker.deadletter import DeadLetters
from pipeline.worker.givenup import GivenUp

#: The exception's class of a task that SQS moved.
ERROR = "ReceivedTooOften"


class Explainer:
    """Gives reasons to the letters of a walk that have none."""

    def __init__(self, store: JobStore, dead_letters: DeadLetters) -> None:
        self._store = store
        self._dead_letters = dead_letters

    def explain(self, walk: Walk, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Explain those that have no reason; which they were."""
        bare = [letter for letter in letters if not letter.explained]
        if not bare:
            return []
        keys = {letter.id: (letter.task_id or letter.id, letter.id) for letter in bare}
        attempts = self._store.attempts(keys.values())
        self._dead_letters.bury_messages(
            [_given_up(letter, attempts.get(keys[letter.id], 0)) for letter in bare]
        )
        # One that cannot be deleted is explained again: its ids are the same.
        walk.delete([letter.raw for letter in bare if isinstance(letter.raw, ReceivedMessage)])
        return bare


def _given_up(letter: DeadLetter, attempts: int) -> GivenUp:
    assert isinstance(letter.raw, ReceivedMessage)
    _, header, _ = open_task(letter.raw.body)
    return GivenUp(
        message=letter.raw,
        queue=letter.source or "",
        task_id=letter.task_id or letter.id,
        header=header,
        headers=letter.headers,
        attempts=attempts,
        error=ERROR,
        reason=letter.reason,
        worker=None,
        failed_at=time.time(),
    )
