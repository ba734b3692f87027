"""Celery's result backend on the jobs table.

The end of a run is reported to the parent process, which records it when it settles the task. Everything
else is written at once: what a running task says of itself (``update_state``, ``STARTED``), the ends of
other tasks (of a chain behind a failed one), and those of tasks that run eagerly.
"""

import os
from datetime import timedelta
from functools import cached_property
from typing import Any, Final

from celery import states
from celery.backends.base import BaseBackend, DisabledBackend
from celery.result import result_from_tuple
from celery.utils.serialization import create_exception_cls
from kombu.exceptions import EncodeError

from pipeline.errors import PermanentError
from pipeline.jobs import RecordedResult
from pipeline.patience import raise_first
from pipeline.payloads import SET_BUCKET
from pipeline.results.chordbackend import ChordBackend
from pipeline.results.chordparts import group_tasks
from pipeline.results.report import Report, running_task
from pipeline.results.waiting import Waiting
from pipeline.wire.redaction import LIMIT, redact

#: Characters of a traceback that are kept, from its end, where the cause is.
TRACEBACK_LIMIT: Final = 8_000
#: Characters of an exception's arguments that are kept where they are too large for the table.
MESSAGE_LIMIT: Final = 2_000
_PENDING: Final = {"status": states.PENDING, "result": None}


class UnstorableResultError(PermanentError, EncodeError):  # type: ignore[misc]
    """A task returned what cannot be stored: another run would return the same."""


class Backend(ChordBackend, Waiting, BaseBackend):  # type: ignore[misc]
    """The results of plain tasks."""

    supports_autoexpire = True
    supports_native_join = True
    supports_failure_expires = True
    #: The process in whose event loop this instance is used, each thread having its own; None: in no loop.
    _loop_process: int | None = None

    def as_uri(self, include_password: bool = False) -> str:
        """Return the name that the worker's banner and ``celery report`` show."""
        return "disabled://" if self.app.conf.task_ignore_result else "jobs-table://"

    @cached_property
    def disabled(self) -> DisabledBackend:
        """Celery's backend without results, which tells others that a result is not kept."""
        return DisabledBackend(app=self.app)

    # ─── Ends of runs ───

    def report(
        self,
        state: str,
        result: Any,
        *,
        request: Any = None,
        traceback: str | None = None,
        kept: bool = True,
    ) -> Report:
        """Return the report of a task's state. Raise ``UnstorableResultError`` for a result that has none."""
        meta = self._get_result_meta(
            result=self.encode_result(result, state),
            state=state,
            traceback=traceback and redact(str(traceback)[-LIMIT:])[-TRACEBACK_LIMIT:],
            request=request,
        )
        name = getattr(request, "task", None) or "the task"
        try:
            text = self.encode(meta)
            if state in self.EXCEPTION_STATES and not self.records.takes(text):
                text = self.encode(_cut(meta))
        except EncodeError as error:
            raise UnstorableResultError(f"The result of {name} is not JSON: {error}") from error
        if not self.records.takes(text):
            raise UnstorableResultError(
                f"The result of {name} has {len(text):,} characters of JSON, more than a DynamoDB item "
                f"holds: {SET_BUCKET}"
            )
        return Report(state=state, text=text, keep_seconds=self._keep_seconds(state), kept=kept)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        """Report that the running task succeeded; of another task, store it."""
        if (running := running_task(task_id)) is None:
            super().mark_as_done(task_id, result, request, store_result, state)
            return
        kept = store_result and not getattr(request, "ignore_result", False)
        if kept or getattr(request, "chord", None):
            running.tell(self.report(state, result, request=request, kept=kept))

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Report that the run failed. It may not be the last: only settlement knows, and ends the rest."""
        if (running := running_task(task_id)) is None:
            super().mark_as_failure(task_id, exc, traceback, request, store_result, call_errbacks, state)
        elif store_result or getattr(request, "chord", None):
            running.tell(self.report(state, exc, request=request, traceback=traceback, kept=store_result))

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> None:
        """Report that the running task published itself again.

        Of another one nothing is stored: Celery tells so of each run that a shutdown cut off.
        """
        running = running_task(task_id)
        if running is not None and store_result:
            running.tell(self.report(state, exc, request=request, traceback=traceback))

    def call_errbacks(self, request: Any, error: BaseException, traceback: str) -> None:
        """Publish those that take a task's id; call those that take request, exception and traceback."""
        self._call_task_errbacks(request, error, traceback)

    def fail_chain(self, chain: Any, result: Any, traceback: str | None) -> None:
        """Fail the tasks behind a failed one in its chain, which never run. Raise ``ServiceError``.

        Of a group all its tasks: Celery fails only the group's own id, for which nobody waits.
        """
        self._fail_chain(chain, result, traceback)
        lost = [task.task_id for task in group_tasks(chain) if task.task_id and not task.ignore_result]
        if lost:
            report = self.report(states.FAILURE, result, traceback=traceback)
            raise_first(self.records.put_many([recorded(task_id, report) for task_id in lost]))

    # ─── Records ───

    def serve_event_loop(self) -> None:
        """Never wait for a service where this thread of this process asks for a state: it holds leases.

        Celery's command ``revoke`` asks for it, to write ``REVOKED`` at once. Here the worker that receives
        the message writes it.
        """
        self._loop_process = os.getpid()

    def get_state(self, task_id: str) -> Any:
        """Return a task's state; on the worker's event loop, the one that makes ``revoke`` write nothing."""
        return states.STARTED if self._loop_process == os.getpid() else super().get_state(task_id)

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        report = self.report(state, result, request=request, traceback=traceback)
        self.records.put(recorded(task_id, report))
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        found = self.records.get(task_id)
        return dict(_PENDING) if found is None else self.meta_of(found)

    def _forget(self, task_id: str) -> None:
        self.records.forget(task_id)

    def _save_group(self, group_id: str, result: Any) -> Any:
        text = self.encode({"result": result.as_tuple()})
        self.records.save_group(group_id, text, self._keep_seconds(states.SUCCESS))
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        text = self.records.group(group_id)
        return None if text is None else {"result": result_from_tuple(self.decode(text)["result"], self.app)}

    def _delete_group(self, group_id: str) -> None:
        self.records.forget_group(group_id)

    def exception_to_python(self, exc: Any) -> Any:
        """Restore an exception. One that would end the process of its reader becomes a plain exception."""
        restored = super().exception_to_python(exc)
        if restored is None or isinstance(restored, Exception):
            return restored
        kind = type(restored)
        return create_exception_cls(kind.__name__, kind.__module__)(*restored.args)

    def meta_of(self, found: RecordedResult) -> dict[str, Any]:
        """Return Celery's meta of a record."""
        meta = {**self.decode(found.text), "status": found.state, "task_id": found.task_id}
        if found.state not in states.READY_STATES:
            meta["date_done"] = None
        decoded: dict[str, Any] = self.meta_from_decoded(meta)
        return decoded

    def _keep_seconds(self, state: str) -> float | None:
        conf, seconds = self.app.conf, self.expires
        if state in states.EXCEPTION_STATES and conf.get("result_failure_expires") is not None:
            seconds = conf.result_failure_expires
        if isinstance(seconds, timedelta):
            seconds = seconds.total_seconds()
        return float(seconds) if seconds else None


def recorded(task_id: str, report: Report, message_id: str | None = None) -> RecordedResult:
    """Return the record of a report. ``message_id``: of the message whose run it ends."""
    return RecordedResult(
        task_id=task_id,
        state=report.state,
        text=report.text,
        message_id=message_id,
        keep_seconds=report.keep_seconds,
    )


def _cut(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the meta of a failure without what may be large: it must be told all the same."""
    error = {**meta["result"], "exc_message": [str(meta["result"]["exc_message"])[:MESSAGE_LIMIT]]}
    return {**meta, "result": error, "args": None, "kwargs": None}
