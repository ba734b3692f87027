"""Rows: what a benchmark found, one JSON line each or as a table."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import click
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class WorkerRow:
    """One measurement of one peer, or the medians of several."""

    benchmark: str
    peer: str
    #: The round trip to SQS (and to DynamoDB) that the proxy made, in milliseconds.
    rtt_ms: float
    #: Which servers served, SQS's first.
    services: str
    tasks: int
    #: Measurements that this row is the median of.
    runs: int = 1
    tasks_per_second: float
    #: Requests to SQS, for each task; None where they are not counted.
    requests_per_task: float | None
    #: Of the worker's processes together.
    cpu_ms_per_task: float
    #: The largest resident memory of the worker's parent process.
    peak_memory_mb: float
    #: How many times as fast ours was, in the same round.
    ours_is: float | None = None


def compared(rows: Sequence[WorkerRow]) -> list[WorkerRow]:
    """The rows of one round, each with ours' rate over its own."""
    ours = next((row.tasks_per_second for row in rows if row.peer == "ours"), None)
    return [replace(row, ours_is=ours / row.tasks_per_second if ours else None) for row in rows]


def medians(rounds: Sequence[Sequence[WorkerRow]]) -> list[WorkerRow]:
    """One row a peer, each figure the median of its rounds."""
    return [_median(rows) for rows in zip(*rounds, strict=True)]


def _median(rows: Sequence[WorkerRow]) -> WorkerRow:
    figures: dict[str, Any] = {}
    for field in fields(WorkerRow):
        values = [getattr(row, field.name) for row in rows]
        if isinstance(values[0], float):
            figures[field.name] = statistics.median(values)
    return replace(rows[0], runs=len(rows), **figures)


def show(rows: Sequence[Any], as_json: bool) -> None:
    """Print rows of one kind."""
    if as_json:
        for row in rows:
            click.echo(json.dumps({name: _rounded(value) for name, value in asdict(row).items()}))
        return
    table = Table()
    names = [field.name for field in fields(rows[0])] if rows else []
    for name in names:
        table.add_column(name)
    for row in rows:
        table.add_row(*(_text(getattr(row, name)) for name in names))
    Console(width=None).print(table)


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
