"""Output of commands for people: data cannot control the terminal."""

import ast
import io
import json
import logging
import os
import re
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from pipeline.cli import main
from pipeline.cli.dlqview import table_of
from pipeline.cli.monitorview import print_kafka, print_sqs
from pipeline.cli.output import Console, Lines, json_text
from pipeline.deadletters import DeadLetter
from pipeline.kafka import Member, Partition
from pipeline.observe.queues import QueuesReport, Reading, Sample
from pipeline.observe.reports import QueueReading
from pipeline.observe.topics import (
    ClusterReport,
    GroupPartitionReport,
    GroupReport,
    PartitionReport,
    RecordReport,
    TopicReport,
)
from pipeline.telemetry import logs
from pipeline.telemetry.logs import terminal_line
from pipeline.telemetry.terminal import clean
from pipeline.web.model import Away, LetterList
from pipeline.worker.celerychecks import StartRefused
from tests.unit.test_deadletters import letter

ROOT = Path(__file__).parents[2]

#: Sets a window's title, clears the screen, begins a command in eight bits, and a line of its own, and
#: changes the direction of what follows.
HOSTILE = "x\x1b]0;owned\x07\x1b[2J\x9b2J\u202e\nroot\ud800"


def hostile(*names: str, **others: Any) -> dict[str, Any]:
    """A view whose texts are hostile."""
    return {name: name + HOSTILE for name in names} | others


def told(printed: str) -> str:
    """Return the output, checked to contain only text and lines."""
    assert "owned" in printed
    assert all(each.isprintable() or each == "\n" for each in printed), repr(printed)
    return printed


def test_a_list_of_dead_letters_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Each column of a letter that anybody may have sent; it stays one line."""
    texts = [each.name for each in fields(DeadLetter) if each.type in (str, str | None)]
    assert {"job_id", "part", "id", "stage"} <= set(texts)
    table_of([letter(**hostile(*texts))])
    printed = told(capsys.readouterr().out)
    assert len(printed.splitlines()) == 2
    assert "job_id" in printed


def test_a_monitor_of_kafka_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Anybody who may consume joins a group under a name of their own."""
    topic = TopicReport(
        name="topic" + HOSTILE,
        partitions=(PartitionReport(partition=0, leader=1, replicas=(1,), isr=(1,), low=0, high=1),),
        config={"key" + HOSTILE: "value" + HOSTILE},
        records=(
            RecordReport(
                topic="t", partition=0, offset=0, time="now", headers={}, value="", key="key" + HOSTILE
            ),
        ),
    )
    lag = GroupPartitionReport(
        topic="t" + HOSTILE, partition=0, low=0, high=1, committed=None, lag=1, member="m" + HOSTILE
    )
    member = Member(client_id="client_id" + HOSTILE, host="host" + HOSTILE, partitions=(Partition("t", 0),))
    group = GroupReport(
        name="name" + HOSTILE, state="state" + HOSTILE, members=(member,), partitions=(lag,), lag=1
    )
    view = ClusterReport(
        bootstrap_servers="b:1", brokers={1: "broker" + HOSTILE}, topics=(topic,), groups=(group,)
    )
    for brief in (True, False):
        print_kafka(view, brief=brief)
        told(capsys.readouterr().out)


def test_a_monitor_of_sqs_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A sample shows messages that anybody may have sent."""
    sample = Sample(
        message_id="id" + HOSTILE,
        group_id="g",
        sent_at=0,
        age_seconds=1,
        receive_count=1,
        attempts=1,
        task="task" + HOSTILE,
        job_id="job" + HOSTILE,
        attributes={"reason": "reason" + HOSTILE},
        body="",
    )
    queue = QueueReading(name="name" + HOSTILE, role="dlq", available=1, in_flight=0, delayed=0)
    reading = Reading(at=0, queues=(queue,))
    print_sqs(QueuesReport(reading=reading, trend=None, dead_letters=(sample,), live=(sample,)))
    told(capsys.readouterr().out)


@pytest.mark.parametrize("columns", [80, 120, None])
def test_a_table_cuts_long_values_and_no_id(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int | None
) -> None:
    """On a terminal of 80 columns, on a wide one, and through a pipe: an id is there to be copied."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: columns is not None)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((columns or 80, 24)))
    lines = Lines("job", "state", "seconds", "entity", ids=("job",))
    ids = ["3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11", "j" * 128]
    lines.add(ids[0], "running", "3.2", "x" * 1_100)
    lines.print()
    wide = capsys.readouterr().out.splitlines()
    assert ids[0] in wide[1]
    assert wide[1].endswith("x…")
    assert all(len(line) <= (columns or 120) for line in wide)
    assert wide[0].index("seconds") + len("seconds") == wide[1].index("3.2") + len("3.2")
    lines.add(ids[1], "running", "13.2", "漢" * 1_100)
    lines.print()
    assert ids[1] in capsys.readouterr().out


def test_what_is_away_is_told_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A jobs page says it; the address may be another's."""
    away = Away(service="SQS", error="away" + HOSTILE, since=0)
    page = LetterList(rows=[], complete=True, unseen=0, away=[away], taken_at=0)
    monkeypatch.setattr("pipeline.cli.dlq.Remote.letters", lambda *_: page)
    told(CliRunner().invoke(main, ["dlq", "list", "--url", "http://127.0.0.1:1"]).stderr)


# ─── Every way out ───

#: Any text that may come from outside, with what controls terminals often in it.
ANYTHING = st.text(
    st.sampled_from("\x1b\x07\x9b\x9d\u202e\u2066\u200b\ud800\x00\x7f]0;a m[") | st.characters()
)


@given(ANYTHING)
def test_no_character_controls_a_terminal(text: str) -> None:
    """As lines, and as JSON, which keeps the value."""
    assert all(each.isprintable() or each in "\n\t" for each in clean(text))
    as_json = json_text({"text": text})
    assert as_json.isprintable()
    assert json.loads(as_json) == {"text": text}


@pytest.mark.parametrize("text", ["größer 漢字 🦊 →\n\tend", "שלום", "/home/ñ"])
def test_usual_text_stays(text: str) -> None:
    """Scripts, symbols and line breaks are no danger."""
    assert clean(text) == text
    assert json.loads(json_text(text)) == text


class Screen(io.StringIO):
    """A terminal, as far as anybody asks."""

    def isatty(self) -> bool:
        return True


@given(ANYTHING)
def test_a_console_sends_no_escapes_but_its_own(text: str) -> None:
    """Text, tables, panels, and the description of a progress bar."""
    screen = Screen()
    console = Console(file=screen, force_terminal=True, color_system=None, width=200, highlight=False)
    table = Table(title=Text(text))
    table.add_column(Text(text))
    table.add_row(Text(text))
    console.print(text, Text(text), table, Panel(Text(text)), markup=False)
    with Progress(TextColumn("{task.description}", markup=False), console=console, transient=True) as bar:
        bar.add_task(text)
    # Hides and shows the cursor, moves it, and clears a line: how rich redraws a bar.
    written = re.sub(r"\x1b\[(\?25[lh]|\d?[AK])", "", screen.getvalue()).replace("\r", "")
    assert all(each.isprintable() or each in "\n\t" for each in written), repr(written)


LINES: dict[str, Any] = {
    "message": {"event": "x " + HOSTILE},
    "field": {"event": "x", "reason": HOSTILE},
    "name of a field": {"event": "x", "name" + HOSTILE: 1},
    "nested": {"event": "owned", "a": [{HOSTILE: HOSTILE}]},
    "exception": {"event": "x", "exception": "Traceback\n  ValueError: " + HOSTILE},
    "stack": {"event": "x", "stack": "Stack\n  " + HOSTILE},
    "level": {"event": "x", "level": HOSTILE, "logger": HOSTILE},
    "no log line": "x " + HOSTILE,
    "no object": [HOSTILE],
}


@pytest.mark.parametrize("case", LINES)
def test_a_log_line_of_another_process_is_text(case: str) -> None:
    """``pipeline dev`` shows what its processes write."""
    line = LINES[case]
    told_in_colours(terminal_line(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)))


def test_a_log_line_on_a_terminal_is_text() -> None:
    """Of structlog and of logging, with fields and a traceback."""
    screen, root = Screen(), logging.getLogger()
    before = root.handlers, root.level
    logs.configure()
    root.handlers, root.level = [logging.StreamHandler(screen)], logging.INFO
    logs.format_handlers(root)
    try:
        ours = structlog.get_logger("ours")
        ours.info("said " + HOSTILE, reason=HOSTILE, nested={"a": HOSTILE}, body=b"\x9b", **{HOSTILE: 1})
        logging.getLogger("library").warning("hello %s", HOSTILE, extra={"field": HOSTILE})
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            ours.exception("failed")
    finally:
        root.handlers, root.level = before
        structlog.reset_defaults()
    told_in_colours(screen.getvalue())


def told_in_colours(shown: str) -> None:
    """Check output that may have the renderer's colours."""
    told(re.sub(r"\x1b\[\d*(;\d+)*m", "", shown))


def test_errors_of_commands_are_text() -> None:
    """They quote what was typed, and settings: errors of this project, of click, and of worker and bridge."""
    runner, typed = CliRunner(), HOSTILE.replace("\ud800", "")
    told(runner.invoke(main, ["jobs", "list", "--url", typed]).stderr)
    told(runner.invoke(main, ["jobs", "list", "--newer-than", typed]).stderr)
    told(runner.invoke(main, ["jobs", "list"], env={"KAFKA_GROUP_PROTOCOL": typed}).stderr)
    told(StartRefused(HOSTILE).format_message())


def test_commands_write_by_one_module() -> None:
    """Only there text is cleaned: print, click's echo and rich's own console would pass it on."""
    for path in sorted((ROOT / "pipeline/cli").glob("*.py")):
        if path.name in ("output.py", "__init__.py"):
            continue
        tree = ast.parse(path.read_text())
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not called & {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"}, (
            path
        )
        assert "rich.console" not in imported, path
