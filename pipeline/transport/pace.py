"""The pace: how many runs a worker finishes per second."""

import time


class Pace:
    """Runs finished per second, over about the last second."""

    WINDOW = 0.5

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._count = 0
        self._rate = 0.0

    def note(self) -> None:
        """One more run is over."""
        self._count += 1

    def rate(self) -> float:
        """Runs per second."""
        elapsed = time.monotonic() - self._since
        if elapsed >= self.WINDOW:
            self._rate = (self._rate + self._count / elapsed) / 2
            self._since, self._count = time.monotonic(), 0
        return self._rate
