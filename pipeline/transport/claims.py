"""Claims: the visibility of a message is changed by one thread at a time."""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from pipeline.transport.lease import Lease


class Claims:
    """Who is changing the visibility of which lease, so that an extension never undoes a return's delay."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._claimed: set[Lease] = set()

    @contextmanager
    def on_free(self, leases: Collection[Lease]) -> Iterator[list[Lease]]:
        """Claim those that nobody else has, for the block."""
        with self._changed:
            claimed = [lease for lease in leases if lease not in self._claimed]
            self._claimed.update(claimed)
        try:
            yield claimed
        finally:
            self._release(claimed)

    @contextmanager
    def on_all(self, leases: Collection[Lease]) -> Iterator[None]:
        """Claim all, for the block; waits until nobody else has one of them."""
        with self._changed:
            self._changed.wait_for(lambda: self._claimed.isdisjoint(leases))
            self._claimed.update(leases)
        try:
            yield
        finally:
            self._release(leases)

    def _release(self, leases: Collection[Lease]) -> None:
        with self._changed:
            self._claimed.difference_update(leases)
            self._changed.notify_all()
