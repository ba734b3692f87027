"""Output of commands: results on standard output, progress and remarks on standard error.

Every command writes by this module, which lets no character of data control a terminal.
"""

import json
import shutil
import sys
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any

import click
from rich import console
from rich.cells import cell_len, set_cell_size
from rich.segment import Segment

from pipeline.telemetry.terminal import clean, clean_json


class Console(console.Console):
    """Rich's console, which sends no control characters but its own."""

    def render(
        self, renderable: console.RenderableType, options: console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Give the pieces of what is printed, with their text cleaned."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else clean(text), style, control)


#: Progress and remarks for people. No markup, and no line breaks: a terminal wraps lines itself, and a file
#: or a grep needs them whole.
REMARKS = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
#: Results with colours, under the same rules.
RESULTS = Console(highlight=False, markup=False, soft_wrap=True)

#: Columns that are aligned to the right.
NUMBERS = ("seconds", "tasks", "number", "a second", "tasks a second", "US dollars")

#: Between two columns.
GAP = "  "

#: The widest a value is printed, and the narrowest that a small terminal makes it, in columns.
MAX_CELL, MIN_CELL = 60, 8


def echo(text: str, *, err: bool = False) -> None:
    """Print plain lines on standard output, or on standard error."""
    click.echo(clean(text), err=err)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value on standard output: one object on one line, unless indented."""
    click.echo(json_text(value, indent=indent))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON that a terminal may show."""
    return clean_json(json.dumps(value, ensure_ascii=False, indent=indent))


def moment(seconds: float | None) -> str:
    """Return a time for people, in UTC; empty for None."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


class Lines:
    """A table of plain lines under the names of its columns: ids are whole, other long values are cut."""

    def __init__(self, *columns: str, ids: Collection[str] = ()) -> None:
        """``ids`` names the columns that people copy."""
        self._columns = columns
        self._ids = [name in ids for name in columns]
        self._rows: list[list[str]] = []

    def add(self, *cells: str) -> None:
        """Add one line; line breaks in its cells are replaced."""
        line = (" ".join(clean(cell).split()) for cell in cells)
        self._rows.append(
            [cell if whole else cut(cell, MAX_CELL) for cell, whole in zip(line, self._ids, strict=True)]
        )

    def print(self, otherwise: str = "") -> None:
        """Print the table on standard output; ``otherwise`` when it is empty."""
        if not self._rows:
            if otherwise:
                echo(otherwise)
            return
        rows = [list(self._columns), *self._rows]
        widths = self._widths([max(map(cell_len, column)) for column in zip(*rows, strict=True)])
        for row in rows:
            cells = (
                _aligned(cell if whole else cut(cell, width), width, name in NUMBERS)
                for cell, whole, width, name in zip(row, self._ids, widths, self._columns, strict=True)
            )
            echo(GAP.join(cells).rstrip())

    def _widths(self, widths: list[int]) -> list[int]:
        """Narrow the widest columns to the terminal's width; a pipe has none, and an id is never cut."""
        if not sys.stdout.isatty():
            return widths
        excess = sum(widths) + len(GAP) * (len(widths) - 1) - shutil.get_terminal_size().columns
        while excess > 0:
            at = max(range(len(widths)), key=lambda at: 0 if self._ids[at] else widths[at])
            if self._ids[at] or widths[at] <= MIN_CELL:
                break
            widths[at] -= 1
            excess -= 1
        return widths


def cut(text: str, width: int) -> str:
    """Return a text of at most ``width`` columns; a cut one ends in an ellipsis."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _aligned(cell: str, width: int, right: bool) -> str:
    padding = " " * (width - cell_len(cell))
    return padding + cell if right else cell + padding
