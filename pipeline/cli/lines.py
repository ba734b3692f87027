"""A table of plain lines for people: what others wrote is in it as text, and steers no terminal."""

from rich.console import Console
from rich.table import Table

from pipeline.cli.edge import clean

#: Columns whose numbers stand under each other.
NUMBERS = ("seconds", "tasks")


class Lines:
    """Lines under the names of their columns."""

    def __init__(self, *columns: str) -> None:
        self._table = Table(box=None, pad_edge=False)
        for column in columns:
            justify = "right" if column in NUMBERS else "left"
            self._table.add_column(column, no_wrap=True, justify=justify)  # type: ignore[arg-type]

    def add(self, *cells: str) -> None:
        """One line, whatever its cells hold."""
        self._table.add_row(*(" ".join(clean(cell).splitlines()) for cell in cells))

    def print(self, otherwise: str = "") -> None:
        """Print them on standard output; ``otherwise`` where there are none."""
        console = Console(highlight=False, markup=False)
        if not console.is_terminal:
            # Through a pipe nothing is cut: an id must be whole.
            console.width = 500
        if self._table.row_count:
            console.print(self._table)
        elif otherwise:
            console.print(otherwise)
