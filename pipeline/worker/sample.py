"""The sample of jobs whose task events a worker sends: all jobs up to a rate of tasks, above it a share."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

from pipeline.control.taskcounts import FEWEST
from pipeline.telemetry import metrics
from pipeline.wire.taskmessage import TaskHeader

#: Seconds between two looks at the rate: the share changes at most once in so many.
ADAPT_EVERY = 5.0
#: The rate is that of so many seconds: a reader that falls behind for moments catches up, and a load that
#: comes in bursts has one share.
RATE_OVER = 60.0
#: The share rises only to one that leaves room: the rate shown is then this part of the most. A rate that is
#: about steady has one share.
ROOM = 0.7
#: So many parts of a split, or tasks of a group, are chosen with their job, and of the further ones each by
#: itself: one large job would else be all that is shown, or nothing of it.
CHOSEN_TOGETHER = 100


class Sample:
    """Chooses jobs by their ids: each worker with the same share chooses the same ones.

    The shares are 1, 1/2, 1/4 …, and a smaller one's jobs are among those of a greater one.
    """

    def __init__(self, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``most``: tasks a second whose events are sent at most; ``clock`` is replaced by tests only."""
        self.most = most
        #: the events of one job in so many are sent
        self.one_in = 1
        self._clock = clock
        self._taken = 0
        #: when the last looks were, and how many tasks had been taken
        self._looks = deque([(clock(), 0)], maxlen=round(RATE_OVER / ADAPT_EVERY) + 1)

    def take(self, key: str) -> int:
        """Count a task that was received; return its ``weight``. Called from the event loop only."""
        self._taken += 1
        return self.weight(key)

    def weight(self, key: str) -> int:
        """Return how many tasks one with this ``sample_key`` stands for; 0 if its events are not sent."""
        share = self.one_in
        return share if share == 1 or _number_of(key) % share == 0 else 0

    def adapt(self) -> None:
        """Choose the share for the rate of the last minute. Called every ``ADAPT_EVERY``."""
        now = self._clock()
        self._looks.append((now, self._taken))
        since, before = self._looks[0]
        rate = (self._taken - before) / max(now - since, RATE_OVER)
        self.one_in = next_share(self.one_in, rate, self.most)
        metrics.TASK_EVENTS_SHARE.set(1 / self.one_in)


def next_share(one_in: int, rate: float, most: float) -> int:
    """Return N of the share for ``rate`` tasks a second, where it is 1/``one_in`` now."""
    if rate > most * one_in:
        return _fitting(rate, most)
    if rate < ROOM * most * one_in / 2:
        return min(one_in, _fitting(rate, ROOM * most))
    return one_in


def _fitting(rate: float, most: float) -> int:
    """Return the smallest power of two by which ``rate`` is to be divided to be at most ``most``."""
    return int(min(FEWEST, 2 ** max(0, math.ceil(math.log2(rate / most))))) if rate > most else 1


def sample_key(headers: Mapping[str, Any], header: TaskHeader | None) -> str:
    """Return the id by which a task is chosen: its job's; of a plain task, that of the first task.

    ``headers`` are Celery's, ``header`` is that of a stage's task.
    """
    key: str = header.job_id if header else headers.get("root_id") or headers["id"]
    ordinal = headers.get("group_index") if header is None else header.part and header.part.ordinal
    return headers["id"] if isinstance(ordinal, int) and ordinal >= CHOSEN_TOGETHER else key


def _number_of(key: str) -> int:
    # A checksum of ids that count up is not evenly spread.
    return int.from_bytes(blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest())
