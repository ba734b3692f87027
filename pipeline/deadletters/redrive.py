"""Redrive: a dead letter goes back to where it came from, and its job runs again.

The order is what makes it safe to interrupt and to repeat: taken as running again in its job, sent (under
the dead letter's own id, so that SQS drops a second copy), then removed. What is cut off before the end is
still a dead letter, and the next redrive goes on with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from config.settings import Settings
from pipeline.deadletters.events import mark, origin, own_headers
from pipeline.deadletters.letter import DeadLetter
from pipeline.deadletters.walk import Walk
from pipeline.errorevents import ErrorEvent
from pipeline.errors import ServiceError
from pipeline.events import REDRIVE, Redrive, redrive_of
from pipeline.jobs import JobStore, Ref, StageRef
from pipeline.kafka import EventProducer, Message, Record
from pipeline.registry import Registry
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage, ReceivedMessage, SqsQueue, sqs_client
from pipeline.taskmessage import FIRST_AT, GENERATION

#: Seconds that one wait for Kafka's acknowledgement lasts.
EMIT_TIMEOUT = 30.0

#: "redriven": on its way again. "removed": its task is done, or its job complete or cancelled, so it is no
#: dead letter any more. "done": the same of what the errors topic tells. "skipped": it needs another option.
#: "failed": it is where it was, and may be tried again.
Outcome = Literal["redriven", "removed", "done", "skipped", "failed"]
OVER = ("redriven", "removed")

OUT_OF_ORDER = (
    "its stage is ordered, and what followed it has passed: --out-of-order redrives it all the same"
)


@dataclass(frozen=True, kw_only=True)
class Redriven:
    """What became of one dead letter."""

    letter: DeadLetter
    outcome: Outcome
    #: Why it was skipped or failed; else empty.
    why: str = ""


class Redriver:
    """Redrives dead letters that a walk holds, or that the topic has."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: JobStore,
        producer: EventProducer,
        walk: Walk,
        *,
        out_of_order: bool,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._producer = producer
        self._walk = walk
        self._out_of_order = out_of_order
        self._topics = {settings.topic(name): name for name in registry.consumed_topics}

    def redrive(self, letters: Sequence[DeadLetter]) -> list[Redriven]:
        """Redrive each; an answer for each, in their order."""
        answers: dict[str, Redriven] = {}
        for letter in letters:
            if why := self._refusal(letter):
                answers[letter.id] = why
        going = [letter for letter in letters if letter.id not in answers]
        runs: list[DeadLetter] = []
        for letter, running in zip(going, self._take_as_running(going), strict=True):
            if isinstance(running, ServiceError):
                answers[letter.id] = Redriven(letter=letter, outcome="failed", why=str(running))
            elif running:
                runs.append(letter)
            else:
                over: Outcome = "done" if letter.place == "errors" else "removed"
                answers[letter.id] = Redriven(letter=letter, outcome=over)
        answers |= self._send(runs)
        self._remove([letter for letter in letters if answers[letter.id].outcome in OVER], answers)
        return [answers[letter.id] for letter in letters]

    def remove_copies(self, letters: Sequence[DeadLetter]) -> list[Redriven]:
        """Remove those of tasks that are on their way again by another dead letter; an answer for each."""
        answers = {letter.id: Redriven(letter=letter, outcome="removed") for letter in letters}
        self._remove(letters, answers)
        return [answers[letter.id] for letter in letters]

    # ─── What may not be redriven ───

    def _refusal(self, letter: DeadLetter) -> Redriven | None:
        if self._is_ordered(letter) and not self._out_of_order:
            return Redriven(letter=letter, outcome="skipped", why=OUT_OF_ORDER)
        if letter.place == "errors" and (why := _untold(letter)):
            return Redriven(letter=letter, outcome="failed", why=why)
        if letter.place == "kafka":
            if letter.source is None:
                return Redriven(letter=letter, outcome="failed", why="it does not say which topic it is from")
            if letter.source not in self._topics:
                why = f"no stage in TASK_MODULES consumes {letter.source}"
                return Redriven(letter=letter, outcome="failed", why=why)
        elif self._task(letter).size > MAX_MESSAGE_BYTES:
            return Redriven(letter=letter, outcome="failed", why="it leaves no room for what a redrive adds")
        return None

    def _is_ordered(self, letter: DeadLetter) -> bool:
        if letter.place != "kafka":
            return letter.ordered
        return any(stage.ordered for stage in self._registry.consumers(self._topics.get(letter.source or "")))

    # ─── Its job ───

    def _take_as_running(self, letters: Sequence[DeadLetter]) -> list[bool | ServiceError]:
        """Whether each is to run again; False when its task is done after all."""
        refs: list[tuple[int, tuple[Ref, int]]] = []
        for at, letter in enumerate(letters):
            refs += [(at, (ref, letter.generation)) for ref in self._refs(letter)]
        answers = self._store.redrive([entry for _, entry in refs])
        running: list[bool | ServiceError] = [True] * len(letters)
        for at in {at for at, _ in refs}:
            own = [answer for (of, _), answer in zip(refs, answers, strict=True) if of == at]
            errors = [answer for answer in own if isinstance(answer, ServiceError)]
            running[at] = errors[0] if errors else any(own)
        return running

    def _refs(self, letter: DeadLetter) -> list[Ref]:
        """What it is to its job; nothing for what belongs to no job."""
        if letter.ref is not None:
            return [letter.ref]
        if letter.place != "kafka" or letter.job_id is None or self._store.job(letter.job_id) is None:
            return []
        stages = self._registry.consumers(self._topics[letter.source or ""])
        return [
            StageRef(job_id=letter.job_id, stage=stage.name)
            for stage in stages
            if letter.stage in (None, stage.name)
        ]

    # ─── Sending ───

    def _send(self, letters: Sequence[DeadLetter]) -> dict[str, Redriven]:
        tasks = [letter for letter in letters if letter.place != "kafka"]
        events = [letter for letter in letters if letter.place == "kafka"]
        errors = self._send_tasks(tasks) + self._emit([self._event(letter) for letter in events])
        return {
            letter.id: Redriven(letter=letter, outcome="failed", why=str(error))
            if error
            else Redriven(letter=letter, outcome="redriven")
            for letter, error in zip(tasks + events, errors, strict=True)
        }

    def _send_tasks(self, letters: Sequence[DeadLetter]) -> list[ServiceError | None]:
        errors: list[ServiceError | None] = [None] * len(letters)
        for source in {letter.source for letter in letters}:
            positions = [at for at, letter in enumerate(letters) if letter.source == source]
            queue = SqsQueue(sqs_client(self._settings), self._settings.queue_url(str(source)))
            answers = queue.send([self._task(letters[at]) for at in positions], one_per_group=True)
            for at, error in zip(positions, answers, strict=True):
                errors[at] = error
        return errors

    @staticmethod
    def _task(letter: DeadLetter) -> OutgoingMessage:
        assert not isinstance(letter.raw, Message)
        return OutgoingMessage(
            body=letter.raw.body if isinstance(letter.raw, ReceivedMessage) else letter.raw.data or "",
            group_id=letter.group_id or letter.id,
            deduplication_id=letter.id,
            attributes={
                GENERATION: str(letter.generation + 1),
                FIRST_AT: f"{letter.first_at or letter.failed_at:.3f}",
            },
        )

    @staticmethod
    def _event(letter: DeadLetter) -> Record:
        assert isinstance(letter.raw, Message)
        headers, at = own_headers(letter.raw), origin(letter.raw)
        # Where it was read the first time is what a plain event is known by.
        first = redrive_of(headers) or at
        assert at is not None
        assert first is not None
        redrive = Redrive(
            generation=letter.generation + 1,
            topic=first.topic,
            partition=first.partition,
            offset=first.offset,
            timestamp_ms=first.timestamp_ms,
        )
        kept = tuple(header for header in headers if header[0] != REDRIVE)
        return Record(
            topic=at.topic, key=letter.raw.key, value=letter.raw.value, headers=(*kept, redrive.header())
        )

    def _emit(self, records: Sequence[Record]) -> list[ServiceError | None]:
        return self._producer.emit(records, EMIT_TIMEOUT) if records else []

    # ─── Removing ───

    def _remove(self, letters: Sequence[DeadLetter], answers: dict[str, Redriven]) -> None:
        for letter, error in zip(
            letters, remove(self._walk, self._producer, letters, "redriven"), strict=True
        ):
            if error is not None:
                why = f"it is on its way again, and could not be removed: {error}"
                answers[letter.id] = Redriven(letter=letter, outcome="failed", why=why)


def _untold(letter: DeadLetter) -> str:
    """Why a task cannot be made again of what the errors topic tells; empty when it can."""
    assert isinstance(letter.raw, ErrorEvent)
    if letter.raw.cut:
        return "its event on the errors topic has only a part of its data"
    if letter.ref is None:
        return "it belongs to no job: nothing would tell whether it is done by now, or was redriven before"
    return "" if letter.source else "its event on the errors topic does not say which queue it is from"


def remove(
    walk: Walk, producer: EventProducer, letters: Sequence[DeadLetter], how: str
) -> list[ServiceError | None]:
    """Remove dead letters from view: from the queue for good, on the DLQ topic by a mark. An answer for each.

    Those of the errors topic stay: it tells what was, and what is done is recognised.
    """
    answers: dict[str, ServiceError | None] = {x.id: None for x in letters if x.place == "errors"}
    tasks = [letter.raw for letter in letters if isinstance(letter.raw, ReceivedMessage)]
    answers |= zip((task.message_id for task in tasks), walk.delete(tasks), strict=True)
    events = [letter for letter in letters if letter.place == "kafka"]
    if events:
        marks = [mark(letter, how) for letter in events]
        answers |= zip((event.id for event in events), producer.emit(marks, EMIT_TIMEOUT), strict=True)
    return [answers[letter.id] for letter in letters]
