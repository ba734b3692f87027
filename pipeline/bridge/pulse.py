"""Pulse: whether a bridge's loop turns and the Kafka client answers it. Where not, only a restart helps."""

import time
from collections.abc import Callable

#: Seconds without a turn, or for which a commit has no answer, after which the process is to be restarted.
#: A turn takes milliseconds, in a rebalance up to 30 s. The client answers a commit within a minute, also
#: when no broker does (``kafka.consumer.ANSWER_TIMEOUT``).
STUCK_AFTER = 180.0


class Pulse:
    """Notes the turns of one loop. The loop's thread notes, the health endpoint asks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Returns what the loop is held up by, if it is known.
        self.held_up: Callable[[], str | None] = lambda: None
        self._turned_at: float | None = None
        self._unanswered = 0.0

    def beat(self, unanswered: float) -> None:
        """Note a turn, and the seconds for which a commit has had no answer."""
        self._turned_at, self._unanswered = self._clock(), unanswered

    def stop(self) -> None:
        """Note that the loop ended, as it was told to."""
        self._turned_at, self._unanswered = None, 0.0

    def stuck(self) -> str | None:
        """Return why the process must be restarted; None while it works, before it begins, after it ends."""
        turned_at = self._turned_at
        if turned_at is None:
            return None
        if (still := self._clock() - turned_at) > STUCK_AFTER:
            why = self.held_up()
            return f"the bridge's loop has not turned for {still:.0f} s" + (f": {why}" if why else "")
        if self._unanswered > STUCK_AFTER:
            return f"the Kafka client has not answered a commit for {self._unanswered:.0f} s"
        return None
