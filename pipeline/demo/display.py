"""The demonstration's live progress: a moving display on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.demo.progress import STAGES
from pipeline.demo.progress import Progress as Seen

#: Seconds between two lines where there is no terminal.
LINE_EVERY = 5.0


class Display:
    """Shows how many jobs are done, what the stages did, tasks/s and failures, while the block runs."""

    def __init__(self, console: Console, seen: Seen, jobs: int) -> None:
        self._console = console
        self._seen = seen
        self._jobs = jobs
        self._began = self._printed_at = time.monotonic()
        self._bar = Progress(
            TextColumn("jobs"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=jobs)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self) -> None:
        """Show what is known now."""
        self._bar.update(self._task, completed=self._seen.ended, description=self._text())
        now = time.monotonic()
        if self._bar.disable and now - self._printed_at >= LINE_EVERY:
            self._printed_at = now
            self._console.print(f"{self._seen.ended}/{self._jobs} jobs, {self._text()}")

    def _text(self) -> str:
        stages = "  ".join(
            f"{topic.removeprefix('document-')} {self._seen.events[topic]}" for topic in STAGES
        )
        rate = self._seen.tasks / max(time.monotonic() - self._began, 0.001)
        return f"{stages}  {rate:.0f} tasks/s  {len(self._seen.failed)} failed"
