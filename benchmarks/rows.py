"""Rows: what a benchmark found, one JSON line each or as a table."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table

#: Columns that a table has even when it is written to a file.
WIDTH = 120

#: What is counted in a row.
Unit = Literal["task", "event"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement of one peer, or the medians of several. In JSON the unit is part of the names."""

    benchmark: str
    peer: str
    unit: Unit
    #: The round trip that the proxy made, in milliseconds.
    rtt_ms: float
    #: Which server served SQS.
    services: str
    #: How many tasks or events.
    count: int
    per_second: float
    #: Requests to SQS for each; None where they are not counted.
    requests: float | None
    #: CPU milliseconds for each, of all processes of the peer together.
    cpu_ms: float
    #: The largest resident memory of the peer's parent process.
    peak_memory_mb: float
    #: How many times as fast ours was, in the same round.
    ours_is: float | None = None
    #: Measurements that this row is the median of.
    runs: int = 1

    def named(self) -> dict[str, Any]:
        """The row under the names it has in JSON."""
        unit = self.unit
        return {
            "benchmark": self.benchmark,
            "peer": self.peer,
            "rtt_ms": self.rtt_ms,
            "services": self.services,
            f"{unit}s": self.count,
            "runs": self.runs,
            f"{unit}s_per_second": round(self.per_second, 1),
            f"requests_per_{unit}": _rounded(self.requests),
            f"cpu_ms_per_{unit}": round(self.cpu_ms, 3),
            "peak_memory_mb": round(self.peak_memory_mb, 1),
            "ours_is": _rounded(self.ours_is),
        }


def compared(rows: Sequence[Row]) -> list[Row]:
    """The rows of one round, each with ours' rate over its own."""
    ours = next((row.per_second for row in rows if row.peer == "ours"), None)
    return [replace(row, ours_is=ours / row.per_second if ours else None) for row in rows]


def medians(rounds: Sequence[Sequence[Row]]) -> list[Row]:
    """One row a peer, each figure the median of its rounds."""
    return [_median(rows) for rows in zip(*rounds, strict=True)]


def _median(rows: Sequence[Row]) -> Row:
    figures: dict[str, Any] = {}
    for name in ("per_second", "requests", "cpu_ms", "peak_memory_mb", "ours_is"):
        values = [getattr(row, name) for row in rows]
        figures[name] = None if None in values else statistics.median(values)
    return replace(rows[0], runs=len(rows), **figures)


def show(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows that have the same names."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif rows:
        alike = [name for name in ("benchmark", "services") if len({row.get(name) for row in rows}) == 1]
        table = Table(title=", ".join(str(rows[0][name]) for name in alike), title_justify="left")
        names = [name for name in rows[0] if name not in alike]
        for name in names:
            table.add_column(name.replace("_", " "))
        for row in rows:
            table.add_row(*(_text(row[name]) for name in names))
        console = Console()
        console.print(table, width=max(console.width, WIDTH))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.10g}" if isinstance(value, float | int) else str(value)
