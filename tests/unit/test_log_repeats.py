"""The limit on repeated log lines: a flood of one event is cut and counted, everything else is written."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from pipeline.telemetry import logs, repeats
from pipeline.telemetry.repeats import EVENTS, LINES


class Clock:
    """A clock that a test sets."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(repeats, "time", clock)
    return clock


@pytest.fixture
def written(clock: Clock) -> Iterator[io.StringIO]:
    """The log output under this project's configuration."""
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers, root.level
    logs.configure()
    root.handlers, root.level = [logging.StreamHandler(stream)], logging.INFO
    logs.format_handlers(root)
    logs.format_handlers(root)
    yield stream
    root.handlers, root.level = before
    structlog.reset_defaults()


#: The loggers of these tests. Others write too: threads of Kafka clients that an earlier test left.
LOGGERS = {"shop", "bank", "other", "uvicorn.error", "asyncio", repeats.__name__}


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    written = (json.loads(line) for line in stream.getvalue().splitlines())
    return [line for line in written if line["logger"] in LOGGERS]


@pytest.mark.parametrize("level", ["warning", "error"])
def test_a_flood_is_cut_and_counted(written: io.StringIO, clock: Clock, level: str) -> None:
    """Whatever the values of its lines; the next line of any event comes with the number left out."""
    log = structlog.stdlib.get_logger("shop")
    for number in range(LINES + 1_234):
        getattr(log, level)("socket.failed", number=number)
    assert len(lines(written)) == LINES
    clock.now += repeats.WINDOW
    logging.getLogger("other").info("something else")
    left_out, other = lines(written)[LINES:]
    assert {"event": "log.left_out", "of": "socket.failed", "of_logger": "shop", "lines": 1_234}.items() <= (
        left_out.items()
    )
    assert (left_out["level"], other["event"]) == ("warning", "something else")
    assert left_out["timestamp"]


def test_lines_of_other_libraries_are_limited_by_their_template(written: io.StringIO) -> None:
    """A template with values is one event, and so are texts that differ after their first line."""
    for number in range(2 * LINES):
        logging.getLogger("uvicorn.error").warning("Invalid request of %s", number)
        logging.getLogger("asyncio").error(f"accept failed\nsocket: {number}")
    assert len(lines(written)) == 2 * LINES


def test_a_flood_hides_nothing_else(written: io.StringIO, clock: Clock) -> None:
    """Other events, other loggers, information and critical lines are written; the window after it, too."""
    log = structlog.stdlib.get_logger("shop")
    for _ in range(2 * LINES):
        log.warning("full")
        log.info("task.done")
    log.warning("other")
    structlog.stdlib.get_logger("bank").warning("full")
    for _ in range(2 * LINES):
        log.critical("ends")
    events = [line["event"] for line in lines(written)]
    assert (events.count("full"), events.count("task.done")) == (LINES + 1, 2 * LINES)
    assert (events.count("other"), events.count("ends")) == (1, 2 * LINES)
    clock.now += repeats.WINDOW
    log.warning("full")
    assert [line["event"] for line in lines(written)[-2:]] == ["log.left_out", "full"]


def test_names_that_never_repeat_are_bounded_too(written: io.StringIO) -> None:
    """A name made of a value, as strangers choose it, takes neither memory nor disk without end."""
    log = logging.getLogger("shop")
    for number in range(2 * EVENTS):
        log.warning(f"no such thing: {number}")
    assert len(lines(written)) == EVENTS + LINES
