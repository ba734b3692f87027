"""The window: how many tasks ended in the last minutes, how, and how long they ran, by name. No I/O."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

#: How far back a window reaches, over how long of it a rate is, and one slice of it (seconds).
SPAN, RATE_OVER, SLICE = 300.0, 60.0, 5.0

#: Run times are counted in classes, each so much longer than the one before: a percentile is at most 2.5 %
#: off, whatever the distribution, and takes a few hundred counters however many tasks ran.
GROWTH = 1.05
#: Shorter runs (seconds) count as this long.
SHORTEST = 0.0001


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What of a window is about one name."""

    #: Runs that ended, well or not, a second over the last minute.
    per_second: float
    #: Runs that failed of those that ended; None when none ended.
    failed_share: float | None
    #: Of the runs that ended well; None when none did.
    p50_seconds: float | None
    p95_seconds: float | None


@dataclass
class _Ends:
    """What ended of one name in one slice."""

    done: int = 0
    failed: int = 0
    #: Runs by class of run time.
    runs: Counter[int] = field(default_factory=Counter)


class Window:
    """Counts by slices of time; those that are too old are let go."""

    def __init__(self) -> None:
        self._slices: dict[int, defaultdict[str, _Ends]] = {}

    def done(self, name: str, seconds: float, at: float) -> None:
        """A run ended well at ``at`` (seconds since 1970) after ``seconds``."""
        ends = self._slice(at)[name]
        ends.done += 1
        ends.runs[_class_of(seconds)] += 1

    def failed(self, name: str, at: float) -> None:
        """A run failed."""
        self._slice(at)[name].failed += 1

    def names(self) -> set[str]:
        """All that something ended of."""
        return {name for ends in self._slices.values() for name in ends}

    def rates(self, name: str, now: float, since: float) -> Rates:
        """What the last minutes say of one name; of what was before ``since`` nothing was counted."""
        self.let_go(now)
        ends = [(number, slice_[name]) for number, slice_ in self._slices.items() if name in slice_]
        first = math.floor((now - RATE_OVER) / SLICE)
        recent = sum(each.done + each.failed for number, each in ends if number >= first)
        done, failed = sum(each.done for _, each in ends), sum(each.failed for _, each in ends)
        runs: Counter[int] = Counter()
        for _, each in ends:
            runs.update(each.runs)
        return Rates(
            per_second=recent / max(SLICE, now - max(first * SLICE, since)),
            failed_share=failed / (done + failed) if done + failed else None,
            p50_seconds=_percentile(runs, 0.50),
            p95_seconds=_percentile(runs, 0.95),
        )

    def _slice(self, at: float) -> defaultdict[str, _Ends]:
        number = math.floor(at / SLICE)
        if number not in self._slices:
            self._slices[number] = defaultdict(_Ends)
        return self._slices[number]

    def let_go(self, now: float) -> None:
        """Forget what is older than the window."""
        oldest = math.floor((now - SPAN) / SLICE)
        for number in [number for number in self._slices if number < oldest]:
            del self._slices[number]


def _class_of(seconds: float) -> int:
    return math.ceil(math.log(max(seconds, SHORTEST), GROWTH))


def _percentile(runs: Counter[int], share: float) -> float | None:
    """The middle of the class that ``share`` of the runs do not exceed."""
    left = share * runs.total()
    for number in sorted(runs):
        left -= runs[number]
        if left <= 0:
            return GROWTH**number * 2 / (1 + GROWTH)
    return None
