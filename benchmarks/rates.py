"""Rates from samples: the middle of a run, without its start and end."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

#: The part of a run that is measured: after the pool is warm, before work runs out.
FROM, TO = 0.1, 0.9


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample at one moment."""

    #: Seconds on any clock.
    at: float
    #: Tasks or events done since the start.
    done: int
    #: CPU seconds that the measured processes have used.
    cpu: float
    #: Requests they have sent.
    requests: int


@dataclass(frozen=True, kw_only=True)
class Middle:
    """The measured part of a run."""

    items: float
    seconds: float
    cpu: float
    requests: float

    @property
    def per_second(self) -> float:
        """Tasks or events per second."""
        return self.items / self.seconds

    @property
    def requests_per_item(self) -> float:
        """Requests for each task or event."""
        return self.requests / self.items

    @property
    def cpu_ms_per_item(self) -> float:
        """CPU milliseconds for each, of all measured processes together."""
        return 1000 * self.cpu / self.items


def middle(samples: Sequence[Sample], total: int) -> Middle:
    """Return the figures between the moments at which FROM and TO of ``total`` were done.

    Between two samples progress is taken as even. Raises ``ValueError`` when the run did not get that far.
    """
    first, last = _at(samples, FROM * total), _at(samples, TO * total)
    return Middle(
        items=(TO - FROM) * total,
        seconds=last[0] - first[0],
        cpu=last[1] - first[1],
        requests=last[2] - first[2],
    )


def _at(samples: Sequence[Sample], done: float) -> tuple[float, float, float]:
    """Interpolate the sample at which ``done`` tasks were done."""
    for before, after in pairwise(samples):
        if before.done <= done <= after.done and before.done < after.done:
            share = (done - before.done) / (after.done - before.done)
            return (
                before.at + share * (after.at - before.at),
                before.cpu + share * (after.cpu - before.cpu),
                before.requests + share * (after.requests - before.requests),
            )
    raise ValueError(f"the run ended before {done:g} were done")
