"""Passes: how far the sweep of a service is through its open jobs, for all its bridges to go on from."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from pipeline.jobs.keys import Keys
from pipeline.jobs.table import Table
from pipeline.jobs.turns import Turn

#: The duty whose turn the passes are of, and the attribute of its item.
SWEEP, PASS = "sweep", "pass"

#: A pass that sees more open jobs than the one before expects so many times those that it saw: a million are
#: taken in within an hour and a half if none were known, not four.
GROWTH = 4


@dataclass(frozen=True, kw_only=True)
class Pass:
    """The pass under way, and the last whole one. Moments are in seconds since 1970."""

    began_at: float
    #: Open jobs seen so far.
    seen: int = 0
    #: Seconds that its runs took so far.
    worked: float = 0.0
    #: Where the next run begins, a cursor of ``JobListing.open_before``; None: at the oldest job.
    after: str | None = None
    #: The end of the last whole pass, how long it took from its first run on, and the open jobs that it saw.
    ended_at: float | None = None
    took: float = 0.0
    open_jobs: int = 0

    @property
    def whole_at(self) -> float:
        """The end of the last whole pass; before the first one, when that began."""
        return self.ended_at or self.began_at

    @property
    def expected(self) -> int:
        """About how many open jobs there are: those of the last one; of more, ``GROWTH`` times those seen."""
        return self.open_jobs if self.seen <= self.open_jobs else GROWTH * self.seen

    def rests(self, now: float) -> bool:
        """Whether no pass begins yet: after each comes a rest, as long as its runs took."""
        return self.after is None and self.ended_at is not None and 0 <= now - self.ended_at < self.worked

    def ended(self, now: float) -> "Pass":
        """Return it as the last whole pass."""
        return replace(self, ended_at=now, took=now - self.began_at, open_jobs=self.seen)


class Passes:
    """The turn at the sweep, and the record of its passes: one item a service."""

    def __init__(
        self, table: Table, keys: Keys, expiry: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        """``expiry`` gives the ``exp`` of an item written now, ``clock`` the seconds since the epoch."""
        self._turn = Turn(table, keys, SWEEP, expiry, clock)

    def take_turn(self, seconds: float, holder: str) -> bool:
        """Whether the sweep is this holder's for so long; nobody else has it within that time.

        The holder may take it again before it ends, and so keep it: what it saw of jobs is in its memory.
        """
        return self._turn.take(seconds, holder) is not None

    def load(self) -> Pass | None:
        """Return how far the pass is; None before the first."""
        item = self._turn.load()
        known = Pass.__dataclass_fields__
        return (
            Pass(**{name: item[PASS][name] for name in known & item[PASS].keys()}) if PASS in item else None
        )

    def save(self, current: Pass) -> None:
        """Record how far the pass is."""
        fields = {name: value for name, value in asdict(current).items() if value is not None}
        self._turn.save(**{PASS: fields})
