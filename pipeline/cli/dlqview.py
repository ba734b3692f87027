"""Dead letters as the command line shows them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from pipeline.cli.edge import REMARKS, clean, moment
from pipeline.cli.lines import Lines
from pipeline.deadletters import DeadLetter
from pipeline.web.model import LetterRow

#: Characters of a reason, and of a task's or an exception's name, in a list.
REASON_SHOWN, NAME_SHOWN = 80, 60

_WORDS = {
    "redriven": "redriven",
    "removed": "removed, because their tasks are done or on their way",
    "done": "done by now",
    "purged": "removed",
    "skipped": "skipped",
    "failed": "failed",
}


def table_of(letters: Sequence[DeadLetter | LetterRow]) -> None:
    """Print a list, the oldest first."""
    lines = Lines("id", "failed (UTC)", "what", "part", "job", "attempts", "exception", "reason")
    for letter in sorted(letters, key=lambda each: each.failed_at):
        lines.add(
            letter.id,
            moment(letter.failed_at),
            _cut(letter.stage or letter.task or letter.source or "", NAME_SHOWN),
            letter.part or "",
            letter.job_id or "",
            str(letter.attempts),
            _cut(letter.error.rsplit(".", 1)[-1], NAME_SHOWN),
            _cut(letter.reason, REASON_SHOWN),
        )
    lines.print("There are no such dead letters.")


def print_letter(letter: Mapping[str, Any]) -> None:
    """Print one with all there is to it, given as its fields."""
    shown = dict(letter)
    data, headers, traceback = (shown.pop(name) for name in ("data", "headers", "traceback"))
    for name, value in shown.items():
        if value not in (None, ""):
            text = moment(value) if name in ("first_at", "failed_at") else value
            click.echo(f"{name:<10} {clean(str(text))}")
    _section("headers", _indented(headers))
    _section("data", _pretty(data))
    _section("traceback", traceback)


def print_summary(outcomes: Mapping[str, int]) -> None:
    """One line about what became of many."""
    parts = [f"{outcomes[name]:,} {word}" for name, word in _WORDS.items() if outcomes.get(name)]
    REMARKS.print((", ".join(parts) or "Nothing was done") + ".")


def _section(title: str, text: str) -> None:
    if text:
        click.echo(f"\n{title}:\n{clean(text)}")


def _pretty(data: str | None) -> str:
    """JSON laid out for reading; anything else as it is."""
    if data is None:
        return ""
    try:
        return json.dumps(json.loads(data), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return data


def _indented(headers: Mapping[str, object]) -> str:
    try:
        return json.dumps(headers, indent=2, ensure_ascii=False) if headers else ""
    except RecursionError:
        return str(headers)


def _cut(text: str, limit: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
