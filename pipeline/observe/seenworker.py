"""A worker as its events show it: signs of life, what it runs, and the counters of its tasks. No I/O."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.control.controlmessage import HEARTBEATS_LAST
from pipeline.control.taskcounts import (
    COUNTED_SINCE,
    MOST_AT_ONCE,
    NOTHING,
    ONE_IN,
    TaskCount,
    counts_in,
    one_in,
    whole,
)


class Ended(NamedTuple):
    """Runs of a task that ended from ``start`` to ``end`` (seconds since 1970)."""

    name: str
    start: float
    end: float
    done: int
    failed: int


@dataclass(kw_only=True)
class SeenWorker:
    """A worker that sent an event in the last minutes."""

    #: When its last event was read (seconds since 1970).
    seen_at: float
    says_goodbye: bool = False
    pool_size: int | None = None
    active: int | None = None
    one_in: int = 1
    #: Its counters by name, since when they count, and when they were read off; None if it sends none.
    counts: Mapping[str, TaskCount] | None = None
    counted_since: float | None = None
    counted_at: float = 0

    def is_online(self, now: float) -> bool:
        """Whether it sent a heartbeat in the last seconds, and no goodbye."""
        return not self.says_goodbye and self.seen_at > now - HEARTBEATS_LAST

    def take(self, event: Mapping[str, Any], at: float, now: float) -> list[Ended]:
        """Take in a worker event of the time ``at``, read ``now``; return what ended since the last one.

        The first counters that are read are where counting begins.
        """
        self.seen_at, self.says_goodbye = now, event["type"] == "worker-offline"
        self.pool_size = whole(event.get("pool_size"), MOST_AT_ONCE)
        self.active = whole(event.get("active"), MOST_AT_ONCE)
        self.one_in = one_in(event.get(ONE_IN))
        counts, since = counts_in(event), _number(event.get(COUNTED_SINCE))
        ended = list(self._ended(counts or {}, since, at)) if self.counts is not None else []
        # After its goodbye a worker sends no heartbeat, but the events of what it still runs.
        self.counts = None if self.says_goodbye else counts
        self.counted_since, self.counted_at = since, at
        return ended

    def _ended(self, counts: Mapping[str, TaskCount], since: float | None, at: float) -> Iterator[Ended]:
        # A worker that started anew under its name counts from zero.
        before = self.counts if self.counts and since == self.counted_since else {}
        for name, count in counts.items():
            base = before.get(name, NOTHING)
            done, failed = max(0, count.done - base.done), max(0, count.failed - base.failed)
            if done or failed:
                yield Ended(name, self.counted_at, at, done, failed)


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None
