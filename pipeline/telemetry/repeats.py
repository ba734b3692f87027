"""A limit on repeated warnings and errors: a loop of failures fills no disk, and hides no other line."""

import logging
import time
from collections import Counter
from typing import Any

#: Lines of one event in one window, and its seconds. A worker whose clients could not connect once wrote
#: 111 MB a minute.
LINES, WINDOW = 100, 10.0

#: Different events that are counted in a window; those beyond are counted together.
EVENTS = 1_000

#: Characters of an event's name that count.
NAME = 200


class RepeatLimit(logging.Filter):
    """Leaves out warnings and errors of one event after ``LINES`` of them in a window.

    A line ``log.left_out`` says how many, before the next line that comes after the window. Lines below and
    above these levels always pass.
    """

    def __init__(self, handler: logging.Handler) -> None:
        """``handler`` is the one that it is a filter of."""
        super().__init__()
        self._handler = handler
        self._counts: Counter[tuple[str, str]] = Counter()
        self._ends = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        # The handler's own lock: logging makes it anew in a forked child.
        self._handler.acquire()
        try:
            for left_out in self._end_window(time.monotonic()):
                self._handler.emit(left_out)
            return not logging.WARNING <= record.levelno < logging.CRITICAL or self._count(record)
        finally:
            self._handler.release()

    def _end_window(self, now: float) -> list[logging.LogRecord]:
        """Begin a new window if it is time; return a record for each event that was left out of the last."""
        if now < self._ends:
            return []
        ended, self._counts, self._ends = self._counts, Counter(), now + WINDOW
        return [
            _left_out(logger, event, lines - LINES)
            for (logger, event), lines in ended.items()
            if lines > LINES
        ]

    def _count(self, record: logging.LogRecord) -> bool:
        key = (record.name, _event(record.msg))
        if key not in self._counts and len(self._counts) >= EVENTS:
            key = ("", "other events")
        self._counts[key] += 1
        return self._counts[key] <= LINES


def limit_repeats(handler: logging.Handler) -> None:
    """Limit the repeated lines of a handler, once."""
    if not any(isinstance(each, RepeatLimit) for each in handler.filters):
        handler.addFilter(RepeatLimit(handler))


def _event(message: Any) -> str:
    """Return the name of a structlog event; of another line its template, without its values."""
    name = message.get("event", "") if isinstance(message, dict) else message
    return str(name).partition("\n")[0][:NAME]


def _left_out(logger: str, event: str, lines: int) -> logging.LogRecord:
    fields = {"of": event, "of_logger": logger, "lines": lines, "seconds": WINDOW}
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, "log.left_out", None, None)
    vars(record).update(fields)
    return record
