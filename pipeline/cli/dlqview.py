"""Dead letters as text: the list, one letter, and the summary of an action on many."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cli.output import REMARKS, Lines, echo, moment
from pipeline.deadletters import LetterRow

_WORDS = {
    "redriven": "redriven",
    "removed": "removed, because their tasks are done or under way",
    "done": "already done",
    "purged": "removed",
    "skipped": "skipped",
    "failed": "failed",
}


def table_of(letters: Sequence[LetterRow]) -> None:
    """Print a list, oldest first."""
    lines = Lines(
        "id", "failed (UTC)", "what", "part", "job", "attempts", "exception", "reason", ids=("id", "job")
    )
    for letter in sorted(letters, key=lambda each: each.failed_at):
        lines.add(
            letter.id,
            moment(letter.failed_at),
            letter.stage or letter.task or letter.source or "",
            letter.part or "",
            letter.job_id or "",
            str(letter.attempts),
            letter.error.rsplit(".", 1)[-1],
            letter.reason,
        )
    lines.print("No dead letter matches.")


def print_letter(letter: Mapping[str, Any]) -> None:
    """Print one dead letter, given as its fields."""
    shown = dict(letter)
    data, headers, traceback = (shown.pop(name) for name in ("data", "headers", "traceback"))
    for name, value in shown.items():
        if value not in (None, ""):
            text = moment(value) if name in ("first_at", "failed_at") else value
            echo(f"{name:<10} {text}")
    _section("headers", _indent(headers))
    _section("data", _pretty(data))
    _section("traceback", traceback)


def print_summary(outcomes: Mapping[str, int]) -> None:
    """Print one line with the number of each outcome."""
    parts = [f"{outcomes[name]:,} {word}" for name, word in _WORDS.items() if outcomes.get(name)]
    REMARKS.print((", ".join(parts) or "Nothing was done") + ".")


def _section(title: str, text: str) -> None:
    if text:
        echo(f"\n{title}:\n{text}")


def _pretty(data: str | None) -> str:
    """Return JSON indented; other text as it is."""
    if data is None:
        return ""
    try:
        return json.dumps(json.loads(data), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return data


def _indent(headers: Mapping[str, object]) -> str:
    try:
        return json.dumps(headers, indent=2, ensure_ascii=False) if headers else ""
    except RecursionError:
        return str(headers)
