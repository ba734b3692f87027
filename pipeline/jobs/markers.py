"""Markers that workers received: the messages before them in their groups are gone (ADR 26).

``Looks`` reads them, with their jobs.
"""

from collections.abc import Callable, Iterable

from pipeline.jobs.keys import Keys
from pipeline.jobs.table import Table
from pipeline.wire.marker import Marker


class Markers:
    """Records the markers of jobs that workers received."""

    def __init__(self, table: Table, keys: Keys, expiry: Callable[[], int]) -> None:
        """``expiry`` gives the ``exp`` of an item written now."""
        self._table = table
        self._keys = keys
        self._expiry = expiry

    def record(self, markers: Iterable[Marker]) -> None:
        """Record that workers received these; raise the error of one that is not recorded."""
        keys = [self._keys.marker(marker.job_id, marker.id) for marker in markers]
        for error in self._table.put_many({key: {"exp": self._expiry()} for key in keys}).values():
            raise error
