"""Sliding window of ended runs: rates, failures and run times of the last minutes, by name. No I/O."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

#: Seconds of a window, of the part that a rate is computed over, and of one slice.
SPAN, RATE_OVER, SLICE = 300.0, 60.0, 5.0

#: Run times are counted in classes, each longer than the one before by this factor: a percentile is at most
#: 2.5 % off, whatever the distribution, and takes a few hundred counters for any number of runs.
GROWTH = 1.05
#: Runs count as this long (seconds) at least, and at most.
SHORTEST, LONGEST = 0.0001, 1e9

#: The most names that are kept; a service has some dozens of tasks. Runs under further names are not counted.
MOST_NAMES = 1_000


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Rates and run times of one name."""

    #: Runs that ended, successfully or not, per second over the last minute; None while unknown.
    per_second: float | None
    #: The share of ended runs that failed; None if none ended.
    failed_share: float | None
    #: Run times of successful runs; None if there was none.
    p50_seconds: float | None
    p95_seconds: float | None


@dataclass
class _Ends:
    """Ended runs of one name in one slice."""

    done: float = 0
    failed: float = 0
    #: Successful runs by class of run time, of those whose events were read.
    runs: Counter[int] = field(default_factory=Counter)


class Window:
    """Counts by slices of time; old slices are dropped."""

    def __init__(self) -> None:
        self._slices: dict[int, defaultdict[str, _Ends]] = {}
        #: The newest slice of each name.
        self._names: dict[str, int] = {}

    def add_run_time(self, name: str, seconds: float, at: float, runs: int = 1) -> None:
        """Note that so many runs that succeeded at ``at`` (seconds since 1970) took ``seconds``."""
        self._ends(name, at).runs[_class_of(seconds)] += runs

    def add_ends(self, name: str, start: float, end: float, *, done: int = 0, failed: int = 0) -> None:
        """Count runs that ended evenly from ``start`` to ``end`` (seconds since 1970)."""
        start = min(start, end)
        for number in range(math.floor(max(start, end - SPAN) / SLICE), math.floor(end / SLICE) + 1):
            part = _overlap(number, start, end)
            ends = self._ends(name, number * SLICE)
            ends.done += done * part
            ends.failed += failed * part

    @property
    def is_full(self) -> bool:
        """Whether there are ``MOST_NAMES``: further ones are not kept."""
        return len(self._names) >= MOST_NAMES

    def names(self) -> set[str]:
        """Return the names that have ended runs."""
        return set(self._names)

    def rates(self, name: str, now: float, since: float) -> Rates:
        """Return the rates of one name; nothing was counted before ``since``."""
        self.drop_old(now)
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

    def _ends(self, name: str, at: float) -> _Ends:
        """Return where the ends of a run are counted: nowhere, for a name that is not kept."""
        if name not in self._names and self.is_full:
            return _Ends()
        number = math.floor(at / SLICE)
        self._names[name] = max(number, self._names.get(name, number))
        if number not in self._slices:
            self._slices[number] = defaultdict(_Ends)
        return self._slices[number][name]

    def drop_old(self, now: float) -> None:
        """Drop the slices that are older than the window."""
        oldest = math.floor((now - SPAN) / SLICE)
        old = [number for number in self._slices if number < oldest]
        for number in old:
            del self._slices[number]
        if old:
            self._names = {name: newest for name, newest in self._names.items() if newest >= oldest}


def _overlap(number: int, start: float, end: float) -> float:
    """Return the part of the time from ``start`` to ``end`` that is in a slice."""
    if start >= end:
        return 1.0
    return max(0.0, min(end, (number + 1) * SLICE) - max(start, number * SLICE)) / (end - start)


def _class_of(seconds: float) -> int:
    return math.ceil(math.log(min(LONGEST, max(SHORTEST, seconds)), GROWTH))


def _percentile(runs: Counter[int], share: float) -> float | None:
    """Return the middle of the class that ``share`` of the runs do not exceed."""
    left = share * runs.total()
    for number in sorted(runs):
        left -= runs[number]
        if left <= 0:
            return GROWTH**number * 2 / (1 + GROWTH)
    return None
