"""Waiting for results: reads at growing intervals, of many tasks together."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

import structlog
from celery import states
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import ResultSet

from pipeline.errors import ServiceUnavailableError
from pipeline.jobs import RecordedResult, TaskResults
from pipeline.results.asyncresult import TaskResult

log = structlog.get_logger(__name__)

#: The first pause between two reads of a result that is not there (seconds), and its growth.
FIRST_PAUSE, GROWTH = 0.02, 1.6
#: The longest pause, as a share of ``interval``: the rest of it is for the read.
LONGEST_SHARE: Final = 0.8
#: Results read in one request. Of more only so many are asked for until they are there, so that a large
#: group costs a read for each task, not one for each task and poll.
WINDOW: Final = 100


class Waiting:
    """The part of the backend that ``get`` calls."""

    #: Celery's methods and cache.
    _ensure_not_eager: Any
    _cache: Any
    app: Any
    #: Returns Celery's meta of a record.
    meta_of: Any

    @property
    def records(self) -> TaskResults:
        """The records of results, in the jobs table."""
        results: TaskResults = self.app.pipeline.job_store.results
        return results

    def wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        callback: Any = None,
        propagate: bool = True,
    ) -> Any:
        """Wait until a task is over; return its result or raise its error, as ``AsyncResult.get`` does."""
        self._ensure_not_eager()
        meta = self.wait_for(result.id, timeout, interval, on_interval=on_interval, on_message=on_message)
        if on_interval is not None and meta["status"] in states.PROPAGATE_STATES:
            # The error of the task that it failed with, as of a chord's header task, goes first.
            on_interval()
        result._maybe_set_cache(meta)
        return result.maybe_throw(propagate=propagate, callback=callback)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Any = None,
        on_message: Any = None,
    ) -> Any:
        """Wait until a task is over; return its meta. Raise Celery's ``TimeoutError``."""
        waiting = self.get_many([task_id], timeout, interval, on_message=on_message, on_interval=on_interval)
        return next(iter(waiting))[1]

    def iter_native(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
    ) -> Iterator[tuple[str, Any]]:
        """Yield id and meta of each task of a set as it ends; id and results of each set within."""
        self._ensure_not_eager()
        ids = []
        for each in result.results:
            if isinstance(each, ResultSet):
                yield each.id, each.results
                continue
            if isinstance(each, TaskResult):
                each.refuse_unkept()
            if each.ignored:
                yield each.id, {"status": states.SUCCESS, "result": None}
            else:
                ids.append(each.id)
        yield from self.get_many(ids, timeout, interval, on_message=on_message, on_interval=on_interval)

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float | None = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        max_iterations: int | None = None,
        READY_STATES: frozenset[str] = states.READY_STATES,  # noqa: N803 - Celery's name
    ) -> Iterator[tuple[str, Any]]:
        """Yield id and meta of each task as it ends.

        ``on_message`` gets the meta of each state that is seen. The pause between two reads grows up to
        ``interval`` (seconds). Waits for a DynamoDB that is away, within ``timeout``. Raise Celery's
        ``TimeoutError``.
        """
        longest = LONGEST_SHARE * (0.5 if interval is None else interval)
        deadline = None if timeout is None else time.monotonic() + timeout
        left = dict.fromkeys(str(task_id) for task_id in task_ids)
        seen: dict[str, str] = {}
        pause, reads = min(FIRST_PAUSE, longest), 0
        while left:
            window = list(left) if max_iterations else list(left)[:WINDOW]
            found, outage = self._read_many(window)
            is_moving = False
            for task_id, each in found.items():
                if on_message is not None and seen.get(task_id) != each.text:
                    seen[task_id] = each.text
                    on_message(self.meta_of(each))
                if each.state in READY_STATES:
                    is_moving = True
                    del left[task_id]
                    meta = self.meta_of(each)
                    if each.state == states.SUCCESS:
                        self._cache[task_id] = meta
                    yield task_id, meta
            reads += 1
            if not left or (max_iterations and reads >= max_iterations):
                return
            if is_moving:
                pause = min(FIRST_PAUSE, longest)
                if len(left) >= WINDOW:
                    continue
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                if outage is not None:
                    raise outage
                raise CeleryTimeoutError(f"The operation timed out after {timeout} s.")
            if on_interval:
                on_interval()
            time.sleep(pause if deadline is None else min(pause, deadline - now))
            pause = min(pause * GROWTH, longest)

    def _read_many(
        self, task_ids: list[str]
    ) -> tuple[dict[str, RecordedResult], ServiceUnavailableError | None]:
        try:
            return self.records.get_many(task_ids), None
        except ServiceUnavailableError as error:
            log.warning("results.unanswered", waiting=len(task_ids), error=str(error))
            return {}, error
