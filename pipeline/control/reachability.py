"""The reachability of the control plane's topics: one log line when it changes, and a count of losses."""

import threading

import structlog

from pipeline.errors import ServiceError
from pipeline.telemetry import metrics

log = structlog.get_logger(__name__)


class Reachability:
    """Whether the control plane's topics answered this process last. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost: set[str] = set()
        #: task and worker events that did not reach Kafka since the process started
        self.dropped_events = 0

    def mark_lost(self, part: str, error: ServiceError) -> None:
        """Note that a part of it could not be read or written."""
        with self._lock:
            first, known = not self._lost, part in self._lost
            self._lost.add(part)
        if first and not known:
            log.warning("control.unreachable", part=part, error=str(error))

    def mark_found(self, part: str) -> None:
        """Note that a part of it was read or written."""
        with self._lock:
            if part not in self._lost:
                return
            self._lost.discard(part)
            whole = not self._lost
        if whole:
            log.info("control.reachable_again", dropped_events=self.dropped_events)

    def note_answer(self, part: str, error: ServiceError | None, *, events: int = 0) -> None:
        """Note that a record was acknowledged; with ``error``, that it and its events are lost."""
        if error is None:
            self.mark_found(part)
            return
        with self._lock:
            self.dropped_events += events
        metrics.CONTROL_EVENTS_DROPPED.inc(events)
        self.mark_lost(part, error)
