"""Write units that requests take of the table and of its indexes, counted as DynamoDB tells them.

Each answer to a write tells them in 0.2 KB more, a batch of statements for each of its statements. That takes
5 µs of CPU (measured). A write whose condition does not hold takes units, too, and does not tell them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from pipeline.telemetry import metrics

#: The methods of a client that write items.
WRITES: Final = ("batch_execute_statement", "batch_write_item", "put_item", "update_item")

#: Kept: looking it up takes as long as counting.
_TABLE = metrics.WRITE_UNITS.labels("table")


class CountingClient:
    """A client of DynamoDB whose writes count the units that they take. All else is that client's."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.__dict__.update({name: partial(_count_write, getattr(client, name)) for name in WRITES})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def _count_write(call: Callable[..., dict[str, Any]], **fields: Any) -> dict[str, Any]:
    answer = call(**{"ReturnConsumedCapacity": "INDEXES", **fields})
    told = answer.get("ConsumedCapacity") or ()
    _count([told] if isinstance(told, Mapping) else told)
    return answer


def _count(told: Sequence[Mapping[str, Any]]) -> None:
    """Count the units of each operation of a request. Emulators may tell none."""
    for each in told:
        _TABLE.inc(_units(each.get("Table")))
        for name, index in (each.get("GlobalSecondaryIndexes") or {}).items():
            metrics.WRITE_UNITS.labels(name).inc(_units(index))


def _units(of: Mapping[str, Any] | None) -> float:
    return float((of or {}).get("CapacityUnits", 0))
