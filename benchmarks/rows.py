"""Rows: the results of a benchmark, as JSON lines or as a table."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import click
from rich.console import Console
from rich.table import Table

#: Columns that a table always has, also in a file.
WIDTH = 140

#: The unit that a row counts.
Unit = Literal["task", "event"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measurement of one peer, or the medians of several."""

    #: The fields that differ from round to round: numbers, mappings of numbers, or None.
    FIGURES: ClassVar[Sequence[str]] = ("per_second", "ours_is")

    peer: str
    #: The round trip of the proxy, in milliseconds.
    rtt_ms: float
    #: The SQS server.
    services: str
    #: The number of tasks, events or jobs.
    count: int
    per_second: float
    #: The rate of ours over this one, in the same round.
    ours_is: float | None = None
    #: The number of measurements of a median.
    runs: int = 1


@dataclass(frozen=True, kw_only=True)
class Row(Measurement):
    """A measurement of tasks or events. JSON names include the unit."""

    FIGURES: ClassVar[Sequence[str]] = (*Measurement.FIGURES, "requests", "cpu_ms", "peak_memory_mb")

    benchmark: str
    unit: Unit
    #: Requests to SQS for each; None where they are not counted.
    requests: float | None
    #: CPU milliseconds for each, of all processes of the peer together.
    cpu_ms: float
    #: The largest resident memory of the peer's parent process.
    peak_memory_mb: float

    def named(self) -> dict[str, Any]:
        """Return the row under its JSON names."""
        unit = self.unit
        return {
            "benchmark": self.benchmark,
            "peer": self.peer,
            "rtt_ms": self.rtt_ms,
            "services": self.services,
            f"{unit}s": self.count,
            "runs": self.runs,
            f"{unit}s_per_second": round(self.per_second, 1),
            f"requests_per_{unit}": rounded(self.requests),
            f"cpu_ms_per_{unit}": round(self.cpu_ms, 3),
            "peak_memory_mb": round(self.peak_memory_mb, 1),
            "ours_is": rounded(self.ours_is),
        }


M = TypeVar("M", bound=Measurement)


def with_speedup(rows: Sequence[M]) -> list[M]:
    """Return the rows of one round, each with ours' rate over its own."""
    ours = next((row.per_second for row in rows if row.peer == "ours"), None)
    return [replace(row, ours_is=ours / row.per_second if ours else None) for row in rows]


def medians(rounds: Sequence[Sequence[M]]) -> list[M]:
    """Return one row a peer, each figure the median of its rounds."""
    return [_median(rows) for rows in zip(*rounds, strict=True)]


def _median(rows: Sequence[M]) -> M:
    figures: dict[str, Any] = {
        name: _middle([getattr(row, name) for row in rows]) for name in rows[0].FIGURES
    }
    return replace(rows[0], runs=len(rows), **figures)


def _middle(values: Sequence[Any]) -> Any:
    """Return the median of numbers; of mappings that of each key, 0 where it is missing."""
    if isinstance(values[0], Mapping):
        keys = {key: None for each in values for key in each}
        return {key: _middle([each.get(key, 0) for each in values]) for key in keys}
    return None if None in values else statistics.median(values)


def show(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows that have the same names."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif rows:
        named = [name for name in ("benchmark", "services") if name in rows[0]]
        alike = [name for name in named if len({row[name] for row in rows}) == 1]
        table = Table(title=", ".join(str(rows[0][name]) for name in alike), title_justify="left")
        names = [name for name in rows[0] if name not in alike]
        for name in names:
            table.add_column(name.replace("_", " "))
        for row in rows:
            table.add_row(*(_text(row[name]) for name in names))
        console = Console()
        console.width = max(console.width, WIDTH)
        console.print(table)


def rounded(value: float | None) -> float | None:
    """Return a figure as it is shown."""
    return None if value is None else round(value, 3)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.10g}" if isinstance(value, float | int) else str(value)
