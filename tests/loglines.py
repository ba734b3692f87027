"""Capture of a module's log lines, whatever the process's log configuration.

``structlog.testing.capture_logs`` sees nothing of a logger that was first used, and so cached, under another
configuration, nor below the level that a command of an earlier test has set for the process.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

LogLine = dict[str, Any]


class _Log:
    """Takes the place of a module's ``log``."""

    def __init__(self, lines: list[LogLine]) -> None:
        self._lines = lines

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **fields: self._lines.append({"event": event, "level": level, **fields})


@contextmanager
def log_lines(module: ModuleType) -> Iterator[list[LogLine]]:
    """The lines that ``module`` writes with its ``log`` meanwhile: their event, level and fields."""
    lines: list[LogLine] = []
    with patch.object(module, "log", _Log(lines)):
        yield lines
