"""Retry: a failed task's message stays where it is, hidden for the backoff, while it has attempts left."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from config.settings import Settings
from pipeline.jobs import JobStore
from pipeline.patience import Patience
from pipeline.registry import Registry
from pipeline.sqs import QUEUE_RETENTION
from pipeline.transport.lease import Lease
from pipeline.worker.outcome import Failed
from pipeline.worker.work import Work

log = structlog.get_logger(__name__)

#: The longest computed backoff (seconds). A task may ask for more with ``Retry``.
LONGEST_BACKOFF = 900.0
#: Seconds from when a message was sent in which it is tried again: what its queue keeps it, less an hour.
LONGEST_LIFE = QUEUE_RETENTION - 3600
DROPPED = "not tried again: its queue would have dropped it by then"


class Retries:
    """Counts attempts by record and sends what has some left back to the queue.

    SQS's receive count cannot be used: it also rises for the innocent messages behind a failing one.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        give_back: Callable[[Lease, float], None],
        store: JobStore,
        patience: Patience,
        *,
        longest: float,
    ) -> None:
        """``give_back`` lets a message come again after so many seconds, ``longest`` at most."""
        self._settings = settings
        self._registry = registry
        self._give_message_back = give_back
        self._store = store
        self._patience = patience
        self._longest = longest

    @property
    def pause(self) -> float:
        """Seconds before a message comes again for a reason that is not its own."""
        return self._settings.retry_delay

    def again(self, works: Sequence[Work]) -> list[Work]:
        """Give back those that may be tried again; returns those that may not."""
        given_up = []
        for work in works:
            failure = work.outcome
            assert isinstance(failure, Failed)
            if failure.permanent:
                if work.lease.run_until is not None:
                    work.lease.attempts = work.attempts_before + 1
                given_up.append(work)
                continue
            attempts = self._attempts(work)
            work.lease.attempts = attempts
            asked = failure.delay if failure.delay is not None else self._backoff(work, attempts)
            if attempts > retries_of(work.lease, self._settings, self._registry):
                given_up.append(work)
            elif time.time() + min(asked, self._longest) > work.lease.message.sent_at + LONGEST_LIFE:
                work.outcome = replace(failure, message=f"{failure.message} ({DROPPED})")
                given_up.append(work)
            else:
                self._give_back(work, failure, attempts, asked)
        return given_up

    def _attempts(self, work: Work) -> int:
        message = work.lease.message
        return self._patience.one(
            "count attempts",
            lambda: self._store.add_attempt(work.task_id, message.message_id, message.receive_count),
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
        self._give_message_back(work.lease, delay)
        work.send_event(
            "task-retried",
            exception=f"{failure.error}({failure.message!r}), attempt {attempts}, again in {delay:.0f} s",
            traceback=failure.traceback,
            retries=attempts,
        )

    def _backoff(self, work: Work, attempts: int) -> float:
        """Exponential with full jitter, capped."""
        own = _option(work.lease, self._registry, "retry_delay")
        first = self._settings.retry_delay if own is None else own
        # The cap on the exponent keeps the number finite.
        most = min(LONGEST_BACKOFF, first * 2 ** min(attempts - 1, 30))
        return random.uniform(0, most)  # noqa: S311 - jitter, not a secret


def retries_of(lease: Lease, settings: Settings, registry: Registry) -> int:
    """How often a message's task may be tried again after its first attempt."""
    own = _option(lease, registry, "retries")
    return settings.max_retries if own is None else int(own)


def _option(lease: Lease, registry: Registry, name: str) -> float | None:
    stage = registry.by_name.get(lease.header.stage) if lease.header else None
    return getattr(stage, name) if stage else None
