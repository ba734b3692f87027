"""The proof of a dead letter: what is compared before a redrive believes what the letter says (ADR 21)."""

from collections.abc import Sequence
from functools import cache
from typing import Final

from pipeline.author.registry import Registry
from pipeline.deadletters.letter import DeadLetter
from pipeline.deadletters.reading import QUEUE_NAME
from pipeline.errors import ConfigurationError, ServiceError
from pipeline.infra.needs import queue_needs
from pipeline.infra.startchecks import check_added_queue
from pipeline.jobs import JobStore
from pipeline.kafka import ReceivedRecord
from pipeline.settings import Settings
from pipeline.sqs import ReceivedMessage

UNPROVED: Final = (
    "its job has not recorded this failure: it was redriven since, an earlier version recorded it, or "
    "something else wrote it here. Redrive it from the dead-letter queue, or replay its stage"
)


class Proof:
    """Compares letters with the service's queues and job records."""

    def __init__(self, settings: Settings, registry: Registry, store: JobStore) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._queues = {
            need.name for need in queue_needs(settings, registry) if not need.is_dead_letter_queue
        }
        #: Why nothing is sent to a queue that a letter names; empty for a queue of this service.
        self.queue_fault = cache(self._queue_fault)

    def unproved(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Return the error events that are not the last failure that their job has recorded.

        Everyone who may write to the errors topic could make up tasks of this service otherwise.
        """
        refs = {letter.id: letter.ref for letter in letters if letter.place == "errors" and letter.ref}
        recorded = self._store.tasks.digests(refs.values())
        return [
            letter
            for letter in letters
            if (ref := refs.get(letter.id))
            and recorded.get(ref) != (letter.digest(body_of(letter)), letter.generation)
        ]

    def _queue_fault(self, name: str) -> str:
        # A queue that no stage names is the service's if its dead letters come here: workers require that.
        if not QUEUE_NAME.fullmatch(name):
            return f"it is said to be from {name[:80]!r}, which is no FIFO queue"
        if name in self._queues:
            return ""
        try:
            check_added_queue(self._settings, self._registry, name)
        except ConfigurationError as error:
            return f"its queue {name} is none of this service: {error}"
        except ServiceError as error:
            return f"its queue {name} could not be checked: {error}"
        return ""


def body_of(letter: DeadLetter) -> str:
    """Return the message of a task, as it was sent."""
    assert not isinstance(letter.raw, ReceivedRecord)
    return letter.raw.body if isinstance(letter.raw, ReceivedMessage) else letter.raw.data or ""
