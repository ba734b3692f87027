"""What the worker and its loop children say to each other: pickled values, each behind its length."""

import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pipeline.worker.child.outcome import Outcome
from pipeline.worker.child.runoptions import RunOptions

#: The length of a value in front of it: network order, four bytes.
LENGTH: Final = struct.Struct("!I")


@dataclass(frozen=True, kw_only=True)
class Run:
    """To a child: run a task."""

    number: int
    #: the arguments of ``pipeline.worker.child.trace.run``
    arguments: tuple[Any, ...]

    @property
    def options(self) -> RunOptions:
        """The options of the run."""
        options: RunOptions = self.arguments[-1]
        return options


@dataclass(frozen=True, kw_only=True)
class CallOff:
    """To a child: cancel a run; unless it ends well all the same, it does not count."""

    number: int


@dataclass(frozen=True, kw_only=True)
class End:
    """To a child: end once all runs are over."""


@dataclass(frozen=True, kw_only=True)
class Began:
    """Of a child: a run has begun."""

    number: int
    #: ``time.monotonic``
    at: float


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Of a child: a run is over."""

    number: int
    outcome: Outcome


Order = Run | CallOff | End
Report = Began | Ended


def frame(value: Order | Report) -> bytes:
    """Return the bytes of a value."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(data)) + data


class Frames:
    """Puts values together from the bytes of a socket."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Add bytes; yield the values that are complete by now."""
        self._bytes += data
        while len(self._bytes) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._bytes)
            end = LENGTH.size + size
            if len(self._bytes) < end:
                return
            value = pickle.loads(bytes(self._bytes[LENGTH.size : end]))  # noqa: S301 - our own child's
            del self._bytes[:end]
            yield value
