"""Retry: a failed task's message stays on its queue, hidden for the backoff, while it has attempts left."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import structlog

from pipeline.author.registry import Registry
from pipeline.jobs import Attempts, Verdict
from pipeline.patience import Patience
from pipeline.settings import Settings
from pipeline.sqs import QUEUE_RETENTION
from pipeline.transport.lease import Lease
from pipeline.worker.child.outcome import Failed
from pipeline.worker.settle.work import Work

log = structlog.get_logger(__name__)

#: The longest computed backoff (seconds). A task may ask for more with ``Retry``.
LONGEST_BACKOFF = 900.0
#: Seconds after it was sent in which a message is retried: the retention of its queue, less an hour.
LONGEST_LIFE = QUEUE_RETENTION - 3600
DROPPED = "not tried again: its queue would have dropped it by then"


class Retries:
    """Records failed attempts and gives tasks that have attempts left back to the queue.

    SQS's receive count cannot be used: it also rises for the innocent messages behind a failing one.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        give_back: Callable[[Lease, float], None],
        attempts: Attempts,
        patience: Patience,
        *,
        longest: float,
        on_retry: Callable[[Work], None] = lambda _: None,
    ) -> None:
        """``give_back`` makes a message visible again after so many seconds, ``longest`` at most.

        ``on_retry`` is called for each one before that.
        """
        self._settings = settings
        self._registry = registry
        self._give_message_back = give_back
        self._recorded = attempts
        self._patience = patience
        self._longest = longest
        self._on_retry = on_retry

    @property
    def pause(self) -> float:
        """Seconds until a message is redelivered whose own task did not fail."""
        return self._settings.retry_delay

    def retry(self, works: Sequence[Work]) -> list[Work]:
        """Give back the tasks that have attempts left; return those to dead-letter."""
        given_up = []
        for work in works:
            failure = work.outcome
            assert isinstance(failure, Failed)
            if failure.permanent:
                if work.lease.run_until is not None:
                    work.lease.attempts = self._record(work, failure)
                given_up.append(work)
                continue
            attempts = self._record(work)
            work.lease.attempts = attempts
            asked = failure.delay if failure.delay is not None else self._backoff(work, attempts)
            if attempts > retries_of(work.lease, self._settings, self._registry):
                given_up.append(work)
            elif time.time() + min(asked, self._longest) > work.lease.message.sent_at + LONGEST_LIFE:
                work.outcome = last = replace(failure, message=f"{failure.message} ({DROPPED})")
                self._record(work, last)
                given_up.append(work)
            else:
                self._give_back(work, failure, attempts, asked)
        return given_up

    def _record(self, work: Work, last: Failed | None = None) -> int:
        """Record the attempt; with ``last``, that the message is not run again. Return all attempts."""
        message = work.lease.message
        verdict = None
        if last is not None:
            verdict = Verdict(error=last.error, message=last.message, traceback=last.traceback)
        return self._patience.one(
            "record attempts",
            lambda: self._recorded.add(work.task_id, message.message_id, message.receive_count, verdict),
        )

    def _give_back(self, work: Work, failure: Failed, attempts: int, asked: float) -> None:
        delay = min(asked, self._longest)
        log.warning(
            "task.retry",
            **work.log_fields(attempts),
            delay=round(delay, 1),
            **({"asked": asked} if asked > delay else {}),
            error=failure.error,
            message=failure.message,
            exception=failure.traceback,
        )
        self._patience.one("record results", partial(self._on_retry, work))
        self._give_message_back(work.lease, delay)
        work.send_event(
            "task-retried",
            exception=f"{failure.error}({failure.message!r}), attempt {attempts}, again in {delay:.0f} s",
            traceback=failure.traceback,
            retries=attempts,
        )

    def _backoff(self, work: Work, attempts: int) -> float:
        """Return an exponential backoff in seconds, with full jitter, capped."""
        own = _option(work.lease, self._registry, "retry_delay")
        first = self._settings.retry_delay if own is None else own
        # The cap on the exponent keeps the number finite.
        most = min(LONGEST_BACKOFF, first * 2 ** min(attempts - 1, 30))
        return random.uniform(0, most)  # noqa: S311 - jitter, not a secret


def final_failure(
    lease: Lease, verdict: Verdict | None, settings: Settings, registry: Registry
) -> Failed | None:
    """Return the failure of a message that is not to be run again; None for one with attempts left."""
    if verdict is not None:
        return Failed(
            error=verdict.error, message=verdict.message, traceback=verdict.traceback, permanent=True
        )
    if lease.attempts > retries_of(lease, settings, registry):
        message = f"all {lease.attempts} attempts failed"
        return Failed(error="AttemptsUsedUp", message=message, permanent=True)
    return None


def retries_of(lease: Lease, settings: Settings, registry: Registry) -> int:
    """Return how often a message's task may be retried after its first attempt."""
    own = _option(lease, registry, "retries")
    return settings.max_retries if own is None else int(own)


def _option(lease: Lease, registry: Registry, name: str) -> float | None:
    stage = registry.by_name.get(lease.header.stage) if lease.header else None
    return getattr(stage, name) if stage else None
