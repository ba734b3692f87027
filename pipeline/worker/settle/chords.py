"""Chords: the ends of their header tasks, recorded in the parent, and what follows when a header is complete.

A run in the child may not be the last of its task, so the child counts nothing. Here each end is final, and
recorded before the message is deleted. The worker whose record completes the header publishes the body, with
the ids that the message holds: published again after a crash it is the same task.

If a header task failed, the body is not run: its errbacks are called once with Celery's ``ChordError``, it
has that as its result, and so has each task behind it. If the body is itself in the header of a chord, that
chord's header task has failed.
"""

import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import structlog
from celery import current_app
from celery._state import _task_stack
from celery.canvas import maybe_signature
from kombu.serialization import loads

from pipeline.errors import InvalidInputError, MessageRefusedError, PayloadLostError, ServiceError
from pipeline.jobs import ChordRecords, PartEnd, PartFailure
from pipeline.patience import Abandoned, Patience, raise_first
from pipeline.results.chordparts import (
    RUN,
    BodyTask,
    Membership,
    abandoned,
    body_tasks,
    membership,
    never_run,
)
from pipeline.transport.bulk import publish_all
from pipeline.transport.envelope import CONTENT, Envelope, open_envelope
from pipeline.wire import identity
from pipeline.wire.taskmessage import GROUP_HEADER, TRACEPARENT, trace_headers_of
from pipeline.worker.child.outcome import IGNORED, Discarded, Failed, Succeeded
from pipeline.worker.child.runoptions import RunOptions, running_options
from pipeline.worker.errbacks import NAME as ERRBACKS
from pipeline.worker.settle.work import Work

log = structlog.get_logger(__name__)

#: The class of the error that a body gets whose header failed.
CHORD_ERROR: Final = "celery.exceptions.ChordError"
ACCEPT: Final = frozenset(CONTENT[:1])

Errors = list[Exception | None]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of a header task, and the message that brought it."""

    end: PartEnd
    #: The signature of the chord's body, as JSON.
    body: Mapping[str, Any]
    envelope: Envelope
    #: The message's queue; None where it is not known.
    queue: str | None
    traceparent: str | None


class Chords:
    """Records the ends of header tasks. Waits for DynamoDB and SQS during an outage; threads share it."""

    def __init__(self, records: ChordRecords, patience: Patience) -> None:
        self._records = records
        self._patience = patience

    def record(self, works: Sequence[Work]) -> Errors:
        """Record how plain tasks ended that are no dead letters, before their messages are deleted.

        A task that is in no chord costs no call. Return for each None, or the error that trying again would
        not change.
        """
        endings, owners = [], []
        for at, work in enumerate(works):
            for ending in self._endings(work):
                endings.append(ending)
                owners.append(at)
        errors: Errors = [None] * len(works)
        for at, error in zip(owners, self._settle(endings), strict=True):
            errors[at] = errors[at] or error
        return errors

    def fail_work(self, work: Work) -> None:
        """Record that a plain task is a dead letter, once its own result says so."""
        if work.header is None and isinstance(work.outcome, Failed):
            told = PartFailure(task_id=work.task_id, error=work.outcome.error, message=work.outcome.message)
            self.fail(work.lease.message.body, told, work.lease.queue)

    def fail(self, body: str, told: PartFailure, queue: str | None) -> None:
        """Record that a plain task is a dead letter, and with it those of its chain that it never reached.

        ``body``: of its SQS message. A message that is no task is in no chord.
        """
        try:
            envelope = open_envelope(body)
        except InvalidInputError:
            return
        endings = [
            Ending(
                end=PartEnd(part=place.part, failure=told),
                body=place.body,
                envelope=envelope,
                queue=queue,
                traceparent=envelope.headers.get(TRACEPARENT),
            )
            for place in abandoned(envelope.headers, self._embedded(envelope))
        ]
        for ending, error in zip(endings, self._settle(endings), strict=True):
            if error is not None:
                # The dead letter is safe, and a failure is small: the table refuses it for its ids.
                log.error("chord.failure_not_recorded", task_id=ending.end.part.task_id, error=str(error))

    # ─── What a message means for chords ───

    def _endings(self, work: Work) -> Iterator[Ending]:
        envelope, outcome = work.lease.envelope, work.outcome
        if envelope is None or work.header is not None:
            return
        ends: list[tuple[Membership, PartEnd]] = []
        if isinstance(outcome, Succeeded):
            if envelope.headers.get("group") is None or outcome.report is None:
                return
            place = membership(envelope.headers, self._embedded(envelope))
            if place is not None:
                result = json.dumps(json.loads(outcome.report.text)["result"])
                ends.append((place, PartEnd(part=place.part, result=result)))
        elif isinstance(outcome, Discarded) and not outcome.lives_on:
            told = PartFailure(task_id=work.task_id, error=_class_of(outcome), message=outcome.reason)
            for place in abandoned(envelope.headers, self._embedded(envelope)):
                ends.append((place, PartEnd(part=place.part, failure=told)))
        for place, end in ends:
            yield Ending(
                end=end,
                body=place.body,
                envelope=envelope,
                queue=work.lease.queue,
                traceparent=work.traceparent,
            )

    def _embedded(self, envelope: Envelope) -> Mapping[str, Any]:
        """Return chain, chord and the like of a task; of one whose body is on S3, read them there."""
        if envelope.reference is None:
            return envelope.embed
        reference = envelope.reference
        try:
            kept = self._patience.one("read payload", lambda: current_app.pipeline.payloads.get(reference))
        except PayloadLostError as lost:
            log.warning("chord.unknown", task_id=envelope.task_id, error=str(lost))
            return {}
        return dict(json.loads(kept)[2] or {})

    # ─── Record, decide, publish, close ───

    def _settle(self, endings: Sequence[Ending]) -> Errors:
        if not endings:
            return []
        full: set[str] = set()

        def record(batch: list[PartEnd]) -> Sequence[Exception | None]:
            recorded = self._records.record(batch)
            full.update(recorded.full)
            return recorded.errors

        errors = self._patience.each("record chords", [each.end for each in endings], record)
        last = {ending.end.part.chord_id: ending for ending in endings}
        for chord_id in sorted(full):
            self._complete(chord_id, last[chord_id])
        return errors

    def _complete(self, chord_id: str, ending: Ending) -> None:
        """Publish what follows a complete header. All of it is repeated until it is closed."""
        decision = self._patience.one("decide chord", partial(self._records.decide, chord_id))
        if decision is None:
            return
        failure = decision.failure
        if decision.results is not None:
            failure = self._publish_body(ending, decision.results)
        else:
            log.warning("chord.failed", chord_id=chord_id, error=_message(failure))
        if failure is not None:
            self._fail_body(chord_id, ending, failure)
        self._patience.one("close chord", lambda: self._records.close(chord_id, time.time()))

    def _publish_body(self, ending: Ending, results: str) -> PartFailure | None:
        """Publish the body; return why it can never be published."""
        args = (loads(results, *CONTENT, accept=ACCEPT),)

        def publish() -> None:
            body = maybe_signature(copy.deepcopy(dict(ending.body)), app=current_app)
            with _as_if_by(ending):
                publish_all(lambda: body.apply_async(args), origin=str(ending.body.get(RUN, "")))

        try:
            self._patience.one("publish chord body", publish)
        except Abandoned:
            raise
        except Exception as error:
            if isinstance(error, ServiceError) and not isinstance(error, MessageRefusedError):
                raise
            log.exception("chord.body_not_published", task_id=ending.envelope.task_id)
            return PartFailure(task_id="", error=CHORD_ERROR, message=f"Callback error: {error!r}")
        return None

    def _fail_body(self, chord_id: str, ending: Ending, failure: PartFailure) -> None:
        """Do for the body what Celery does when a header fails, and fail the chords that wait for it."""
        told = PartFailure(task_id=failure.task_id, error=CHORD_ERROR, message=_message(failure))
        lost = [
            replace(
                ending,
                end=PartEnd(part=each.part, failure=replace(told, task_id=each.part.task_id)),
                body=each.body,
            )
            for each in never_run(ending.body)
        ]
        raise_first(self._settle(lost))
        # Celery gives the tasks of a group the header task's own error.
        own = failure if ending.body.get("task") == "celery.group" and failure.task_id else told
        for task in body_tasks(ending.body):
            self._patience.one("record results", partial(_store_failure, task, own))
            if task.errbacks:
                errbacks = _errbacks(chord_id, task, own, ending)
                self._patience.one("errbacks", partial(publish_all, errbacks.apply_async))


def _class_of(discarded: Discarded) -> str:
    name = "Ignore" if discarded.reason == IGNORED else "TaskRevokedError"
    return f"celery.exceptions.{name}"


def _message(failure: PartFailure | None) -> str:
    """Return the message of Celery's ``ChordError``."""
    assert failure is not None
    if not failure.task_id:
        return failure.message
    return f"Dependency {failure.task_id} raised {failure.error.rpartition('.')[2]}({failure.message!r})"


def _errbacks(chord_id: str, task: BodyTask, failure: PartFailure, ending: Ending) -> Any:
    """Return the task that calls the errbacks of a task of the body."""
    headers, group = ending.envelope.headers, ending.envelope.headers.get(GROUP_HEADER)
    request = {
        "id": task.task_id,
        "task": task.task,
        "root_id": headers.get("root_id"),
        "parent_id": headers["id"],
        "args": [],
        "kwargs": {},
        "errbacks": list(task.errbacks),
    }
    return current_app.tasks[ERRBACKS].signature(
        (request,),
        {"error": failure.error, "message": failure.message, "traceback": ""},
        task_id=identity.errbacks_task_id(task.task_id, chord_id),
        headers=trace_headers_of(headers, ending.traceparent) | ({GROUP_HEADER: group} if group else {}),
        **({"queue": ending.queue} if ending.queue else {}),
    )


def _store_failure(task: BodyTask, failure: PartFailure) -> None:
    """Store the failure of a task of the body, and of those behind it, where their results are kept."""
    known = current_app.tasks.get(task.task)
    ignores = task.ignore_result
    if ignores is None:
        ignores = current_app.conf.task_ignore_result if known is None else known.ignore_result
    if ignores or not task.task_id:
        return
    module, _, name = failure.error.rpartition(".")
    told = {"exc_type": name, "exc_message": [failure.message], "exc_module": module or "builtins"}
    error = current_app.backend.exception_to_python(told)
    current_app.backend.mark_as_failure(task.task_id, error, call_errbacks=False)
    current_app.backend.fail_chain(task.chain, error, None)


@contextmanager
def _as_if_by(ending: Ending) -> Iterator[None]:
    """Publish as the header task itself would: in its message group and trace, as its child."""
    headers = ending.envelope.headers
    task = current_app.tasks.get(ending.envelope.task_name) or current_app.tasks[ERRBACKS]
    options = RunOptions(attempt=1, limit=None, start_before=0, traceparent=ending.traceparent)
    token = running_options.set(options)
    _task_stack.push(task)
    task.push_request(**headers, called_directly=False, delivery_info={})
    try:
        yield
    finally:
        task.pop_request()
        _task_stack.pop()
        running_options.reset(token)
