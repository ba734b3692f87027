"""The parts of a service that says no: a clock that jumps, and a bucket that is empty for a while."""

from dataclasses import dataclass


@dataclass
class Clock:
    """A clock that stands until a test moves it."""

    #: Seconds since 1970.
    now: float = 1_000_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def jump(self, seconds: float) -> None:
        """Move on, as a sleep does."""
        self.now += seconds


class Bucket:
    """A rate that is enforced: full at first with one second's worth, and refilled as time passes.

    A request is let through while anything is in the bucket, and may take more than that: the debt is paid
    before the next one. So the mean is exact, whatever a request costs.
    """

    def __init__(self, rate: float, clock: Clock) -> None:
        """``rate``: units a second."""
        self._rate, self._clock = rate, clock
        self._level, self._at = rate, clock.now

    @property
    def is_open(self) -> bool:
        """Whether a request is let through now."""
        return self._filled() > 0

    def take(self, units: float) -> None:
        """Charge a request that was let through."""
        self._level = self._filled() - units
        self._at = self._clock.now

    def _filled(self) -> float:
        return min(self._rate, self._level + (self._clock.now - self._at) * self._rate)
