"""Logs: one JSON object for each line, and the task's fields in every line about a task."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from pipeline.author.context import CurrentTask, Part, running
from pipeline.telemetry import logs

TASK = CurrentTask(
    job_id="j1",
    task_id="t1",
    stage="extract",
    entity_id="order-7",
    part=Part(ordinal=3, total=20),
    attempt=2,
    topic="received",
    partition=1,
    offset=42,
    deadline=None,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
FIELDS = {
    "entity_id": "order-7",
    "stage": "extract",
    "job_id": "j1",
    "task_id": "t1",
    "attempt": 2,
    "part": "3/20",
    "topic": "received",
    "partition": 1,
    "offset": 42,
    "trace_id": "0af7651916cd43dd8448eb211c80319c",
}


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Return the log output under this project's configuration."""
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers, root.level
    logs.configure()
    root.handlers, root.level = [logging.StreamHandler(stream)], logging.INFO
    logs.format_handlers(root)
    yield stream
    root.handlers, root.level = before
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_user_code_says_which_task_it_runs_for(written: io.StringIO) -> None:
    """Both through logging and through structlog; outside of a task there is nothing to add."""
    with running(TASK):
        logging.getLogger("shop.orders").info("read %d pages", 3)
        structlog.stdlib.get_logger("shop.orders").info("pages.read", pages=3)
    logging.getLogger("shop.orders").info("outside")
    plain, structured, outside = lines(written)
    assert FIELDS.items() <= plain.items()
    assert (plain["event"], plain["logger"], plain["level"]) == ("read 3 pages", "shop.orders", "info")
    assert {**FIELDS, "pages": 3}.items() <= structured.items()
    assert not set(FIELDS) & set(outside)


def test_what_a_line_says_itself_stands(written: io.StringIO) -> None:
    """A field of its own, also one given with extra=, is not overwritten."""
    with running(TASK):
        logging.getLogger("shop").warning("moved", extra={"entity_id": "order-8", "duration_ms": 1.5})
    [line] = lines(written)
    assert (line["entity_id"], line["duration_ms"], line["stage"]) == ("order-8", 1.5, "extract")


def test_an_exception_is_one_line(written: io.StringIO) -> None:
    """With its traceback inside."""
    try:
        raise ValueError("no such page")
    except ValueError:
        logging.getLogger("shop").exception("failed")
    [line] = lines(written)
    assert "ValueError: no such page" in line["exception"]


def test_other_handlers_find_a_records_text(written: io.StringIO) -> None:
    """In ``message``, where logging's own formatter leaves it; it is no field of a line."""
    seen: list[str] = []
    again = io.StringIO()
    other, stamped = logging.Handler(), logging.StreamHandler(io.StringIO())
    last = logging.StreamHandler(again)
    other.emit = lambda record: seen.append(record.message)  # type: ignore[method-assign]
    stamped.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    last.setFormatter(logs.formatter(terminal=False))
    logging.getLogger().handlers[1:] = [other, stamped, last]
    logging.getLogger("shop").info("read %d pages", 3)
    structlog.stdlib.get_logger("shop").info("pages.read", message="all")
    assert seen[0] == "read 3 pages"
    assert "pages.read" in seen[1]
    plain, structured = lines(again)
    assert not {"message", "asctime"} & set(plain)
    assert structured["message"] == "all"


def test_libraries_do_not_tell_where_credentials_are(written: io.StringIO) -> None:
    """botocore says so as information at every start."""
    logging.getLogger("botocore.credentials").info("Found credentials in /secret/place")
    assert written.getvalue() == ""


def test_a_line_of_another_process_is_laid_out_for_people() -> None:
    """JSON lines of this project are laid out as on a terminal, tracebacks in lines; other lines stay."""
    line = '{"event": "task.retry", "level": "warning", "job_id": "j1", "exception": "Traceback:\\n  No"}'
    shown = logs.terminal_line(line).splitlines()
    assert "task.retry" in shown[0]
    assert "j1" in shown[0]
    assert shown[-2:] == ["Traceback:", "  No"]
    for other in ("worker ready", "", "[1]", '{"price": 3}', '{"event": 7}'):
        assert logs.terminal_line(other) == other
