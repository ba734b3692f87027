"""Redrive: puts a dead letter back where it came from, and its job runs again.

The order makes it safe to interrupt and to repeat: set to running in its job, sent (under the dead letter's
own id, so that SQS drops a second copy), then removed. A letter that is cut off before the end is still a
dead letter, and the next redrive completes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.author.registry import Registry
from pipeline.deadletters.letter import DeadLetter
from pipeline.deadletters.proof import UNPROVED, Proof, body_of
from pipeline.deadletters.queuescan import QueueScan
from pipeline.deadletters.reading import event_task_id
from pipeline.deadletters.remaking import Remaking
from pipeline.errors import InvalidEventError, ServiceError
from pipeline.jobs import JobStore, Ref, StageRef, TaskOverError
from pipeline.kafka import EMIT_TIMEOUT, EventProducer, OutgoingRecord, ReceivedRecord
from pipeline.settings import Settings
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage, ReceivedMessage, SqsQueue, sqs_client
from pipeline.wire import identity
from pipeline.wire.deadletter import coordinates_of, encode_mark, own_headers, redrive_attributes
from pipeline.wire.events import MAX_GENERATION, REDRIVE, Event, Redrive, record_digest, redrive_of
from pipeline.wire.failure import ErrorEvent

#: "redriven": sent again. "removed": its task is done, or its job complete or cancelled, so it is no dead
#: letter any more. "done": the same for a failure on the errors topic, which stays there. "skipped": it needs
#: another option. "failed": it is where it was, and may be tried again.
Outcome = Literal["redriven", "removed", "done", "skipped", "failed"]
FINISHED = ("redriven", "removed")

OUT_OF_ORDER = (
    "its stage is ordered, and later tasks of its entity have run: --out-of-order redrives it all the same"
)


@dataclass(frozen=True, kw_only=True)
class RedriveResult:
    """The result of redriving one dead letter."""

    letter: DeadLetter
    outcome: Outcome
    #: Why it was skipped or failed; else empty.
    why: str = ""


class Redriver:
    """Redrives dead letters that a scan of the queue holds, or that a topic has."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: JobStore,
        producer: EventProducer,
        scan: QueueScan,
        *,
        out_of_order: bool,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._producer = producer
        self._scan = scan
        self._out_of_order = out_of_order
        self._proof = Proof(settings, registry, store)
        self._topics = {settings.topic(name): name for name in registry.consumed_topics}
        self._remaking = Remaking(settings, registry)
        #: By the letter's id, the events that consumers made of records of topics of others.
        self._remade: dict[str, list[Event]] = {}

    def redrive(self, letters: Sequence[DeadLetter]) -> list[RedriveResult]:
        """Redrive letters that are proved; return the result of each, in their order."""
        answers: dict[str, RedriveResult] = {}
        for letter in letters:
            if why := self._refusal(letter):
                answers[letter.id] = why
        going = [letter for letter in letters if letter.id not in answers]
        runs: list[DeadLetter] = []
        for letter, error in zip(going, self._set_running(going), strict=True):
            if error is None:
                runs.append(letter)
            elif isinstance(error, TaskOverError):
                outcome: Outcome = "done" if letter.place == "errors" else "removed"
                answers[letter.id] = RedriveResult(letter=letter, outcome=outcome)
            else:
                answers[letter.id] = RedriveResult(letter=letter, outcome="failed", why=str(error))
        answers |= self._send(runs)
        self._remove([letter for letter in letters if answers[letter.id].outcome in FINISHED], answers)
        return [answers[letter.id] for letter in letters]

    def remove_copies(self, letters: Sequence[DeadLetter]) -> list[RedriveResult]:
        """Remove letters of tasks that another dead letter has sent again; return the result of each."""
        answers = {letter.id: RedriveResult(letter=letter, outcome="removed") for letter in letters}
        self._remove(letters, answers)
        return [answers[letter.id] for letter in letters]

    # ─── Refusal ───

    def refuse_unproved(self, letters: Sequence[DeadLetter]) -> list[RedriveResult]:
        """Return the results of the letters that are not proved; the others may be redriven."""
        return [
            RedriveResult(letter=letter, outcome="done")
            if letter.ref is not None and self._store.resumption.is_over(letter.ref)
            else RedriveResult(letter=letter, outcome="failed", why=UNPROVED)
            for letter in self._proof.unproved(letters)
        ]

    def _refusal(self, letter: DeadLetter) -> RedriveResult | None:
        if self._is_ordered(letter) and not self._out_of_order:
            return RedriveResult(letter=letter, outcome="skipped", why=OUT_OF_ORDER)
        if letter.generation >= MAX_GENERATION:
            why = f"it was redriven {letter.generation:,} times: submit its data anew"
            return RedriveResult(letter=letter, outcome="failed", why=why)
        if letter.place == "errors" and (why := _missing_facts(letter)):
            return RedriveResult(letter=letter, outcome="failed", why=why)
        if letter.place == "kafka":
            why = self._event_refusal(letter)
        elif self._task(letter).size > MAX_MESSAGE_BYTES:
            why = "it leaves no room for the attributes of a redrive"
        else:
            why = self._proof.queue_fault(letter.source or "")
        return RedriveResult(letter=letter, outcome="failed", why=why) if why else None

    def _event_refusal(self, letter: DeadLetter) -> str:
        if letter.source is None:
            return "it does not say which topic it is from"
        if self._remaking.emits(letter.source):
            try:
                self._remade[letter.id] = self._remaking.events(letter)
            except InvalidEventError as error:
                return str(error)
            return ""
        return "" if letter.source in self._topics else f"no stage in TASK_MODULES consumes {letter.source}"

    def _is_ordered(self, letter: DeadLetter) -> bool:
        if letter.place != "kafka":
            return letter.ordered
        topics = self._remaking.emits(letter.source) or (self._topics.get(letter.source or ""),)
        return any(stage.ordered for topic in topics for stage in self._registry.stages_on(topic))

    # ─── Its job ───

    def _set_running(self, letters: Sequence[DeadLetter]) -> list[ServiceError | None]:
        """Set the tasks of each letter to running; ``TaskOverError`` where none is to run again."""
        refs: list[tuple[int, tuple[Ref, int]]] = []
        for at, letter in enumerate(letters):
            refs += [(at, (ref, letter.generation)) for ref in self._refs(letter)]
        answers = self._store.resumption.redrive([entry for _, entry in refs])
        errors: list[ServiceError | None] = [None] * len(letters)
        for at in {at for at, _ in refs}:
            own = [answer for (of, _), answer in zip(refs, answers, strict=True) if of == at]
            failures = [answer for answer in own if answer and not isinstance(answer, TaskOverError)]
            errors[at] = failures[0] if failures else (own[0] if all(own) else None)
        return errors

    def _refs(self, letter: DeadLetter) -> list[Ref]:
        """Return a letter's tasks in its job; none for a letter of no job."""
        if letter.ref is not None:
            return [letter.ref]
        if letter.place != "kafka" or letter.job_id is None or self._store.records.get(letter.job_id) is None:
            return []
        remade = self._remade.get(letter.id)
        topic = remade[0].type if remade else self._topics[letter.source or ""]
        return [
            StageRef(
                job_id=letter.job_id,
                stage=stage.name,
                task_id=identity.task_id(remade[0].source, remade[0].id, stage.name, None)
                if remade
                else _task_id(letter, stage.name),
            )
            for stage in self._registry.stages_on(topic)
            if letter.stage in (None, stage.name)
        ]

    # ─── Sending ───

    def _send(self, letters: Sequence[DeadLetter]) -> dict[str, RedriveResult]:
        tasks = [letter for letter in letters if letter.place != "kafka"]
        events = [letter for letter in letters if letter.place == "kafka"]
        errors = self._send_tasks(tasks) + self._send_events(events)
        return {
            letter.id: RedriveResult(letter=letter, outcome="failed", why=str(error))
            if error
            # Consumers that pass a record over by now leave nothing to redrive.
            else RedriveResult(
                letter=letter, outcome="redriven" if self._remade.get(letter.id, True) else "removed"
            )
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
        return OutgoingMessage(
            body=body_of(letter),
            group_id=letter.group_id or letter.id,
            deduplication_id=letter.id,
            attributes=redrive_attributes(letter),
        )

    def _send_events(self, letters: Sequence[DeadLetter]) -> list[ServiceError | None]:
        """Write the records of letters; the first error of each."""
        owned = [
            (at, record)
            for at, letter in enumerate(letters)
            for record in (
                [self._remaking.outgoing(letter, event) for event in self._remade[letter.id]]
                if letter.id in self._remade
                else [self._event(letter)]
            )
        ]
        errors: list[ServiceError | None] = [None] * len(letters)
        for (at, _), error in zip(owned, self._emit([record for _, record in owned]), strict=True):
            errors[at] = errors[at] or error
        return errors

    @staticmethod
    def _event(letter: DeadLetter) -> OutgoingRecord:
        assert isinstance(letter.raw, ReceivedRecord)
        headers, at = own_headers(letter.raw.headers), coordinates_of(letter.raw.headers)
        # A plain event's id comes from the place where it was read first.
        assert at is not None
        first = redrive_of(headers, at.topic, letter.raw.key, letter.raw.value) or at
        redrive = Redrive(
            generation=letter.generation + 1,
            topic=first.topic,
            partition=first.partition,
            offset=first.offset,
            timestamp_ms=first.timestamp_ms,
            digest=record_digest(at.topic, letter.raw.key, letter.raw.value),
        )
        kept = tuple(header for header in headers if header[0] != REDRIVE)
        return OutgoingRecord(
            topic=at.topic, key=letter.raw.key, value=letter.raw.value, headers=(*kept, redrive.header())
        )

    def _emit(self, records: Sequence[OutgoingRecord]) -> list[ServiceError | None]:
        return self._producer.emit(records, EMIT_TIMEOUT) if records else []

    # ─── Removing ───

    def _remove(self, letters: Sequence[DeadLetter], answers: dict[str, RedriveResult]) -> None:
        for letter, error in zip(
            letters, remove(self._scan, self._producer, letters, "redriven"), strict=True
        ):
            if error is not None:
                why = f"it was sent again, and could not be removed: {error}"
                answers[letter.id] = RedriveResult(letter=letter, outcome="failed", why=why)


def _missing_facts(letter: DeadLetter) -> str:
    """Return why a task cannot be rebuilt from its error event; empty if it can."""
    assert isinstance(letter.raw, ErrorEvent)
    if letter.raw.cut:
        return "its event on the errors topic has only a part of its data"
    if letter.ref is None:
        return "it belongs to no job: nothing would tell whether it is done by now, or was redriven before"
    return "" if letter.source else "its event on the errors topic does not say which queue it is from"


def remove(
    scan: QueueScan, producer: EventProducer, letters: Sequence[DeadLetter], how: str
) -> list[ServiceError | None]:
    """Remove dead letters: from the queue for good, on the DLQ topic by a mark. Answer for each.

    Those of the errors topic stay there; a redrive recognises a task that is done.
    """
    answers: dict[str, ServiceError | None] = {x.id: None for x in letters if x.place == "errors"}
    tasks = [letter.raw for letter in letters if isinstance(letter.raw, ReceivedMessage)]
    answers |= zip((task.message_id for task in tasks), scan.delete(tasks), strict=True)
    events = [letter for letter in letters if letter.place == "kafka"]
    if events:
        marks = [_mark(letter, how) for letter in events]
        answers |= zip((event.id for event in events), producer.emit(marks, EMIT_TIMEOUT), strict=True)
    return [answers[letter.id] for letter in letters]


def _task_id(letter: DeadLetter, stage: str) -> str:
    assert isinstance(letter.raw, ReceivedRecord)
    at = coordinates_of(letter.raw.headers)
    return event_task_id(letter.raw, at, stage) if at else ""


def _mark(letter: DeadLetter, how: str) -> OutgoingRecord:
    assert isinstance(letter.raw, ReceivedRecord)
    return OutgoingRecord(
        topic=letter.raw.topic, key=letter.id.encode(), value=None, headers=encode_mark(letter.id, how)
    )
