"""Option types and shared options: durations, times, and which dead letters a command is about."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from pipeline.deadletters import Filter

Command = Callable[..., Any]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)


class Duration(click.ParamType[float]):
    """Seconds, written as a number and a unit: 90s, 30m, 2h, 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds; fail with the four units."""
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration. Write 90s, 30m, 2h or 7d.", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


class Moment(click.ParamType[float]):
    """Seconds since 1970, written as ISO 8601 (UTC unless it says otherwise) or as a duration ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds since 1970; fail with the two ways to write it."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        if _DURATION.fullmatch(text):
            return time.time() - Duration().convert(text, param, ctx)
        try:
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is not a time. Write 2026-11-24T07:30 (UTC), 2026-11-24T08:30+01:00 or 2h (ago).",
                param,
                ctx,
            )


# ─── Dead letters ───


def letter_filters(command: Command) -> Command:
    """Add the options that select dead letters."""
    options = (
        click.option("--stage", help="Only dead letters of this stage."),
        click.option(
            "--job",
            "job_id",
            metavar="JOB_ID",
            help="Only dead letters of this job, given by its id or the beginning of it.",
        ),
        click.option(
            "--exception",
            "error",
            metavar="CLASS",
            help="Only dead letters with this exception, with or without its module; * matches any text.",
        ),
        click.option("--older-than", type=Duration(), help="Only failures older than this: 30m, 2h, 7d."),
        click.option("--newer-than", type=Duration(), help="Only failures newer than this."),
        click.option(
            "--only",
            "place",
            type=click.Choice(["sqs", "kafka", "errors"]),
            help="sqs: only tasks. kafka: only events. errors: failed tasks of the errors topic, kept "
            "for 30 days, also those that SQS dropped after 14.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def filter_of(wanted: dict[str, Any], ids: tuple[str, ...] = ()) -> Filter:
    """Return the filter that a command's options (and ids) describe."""
    now = time.time()
    older, newer = wanted["older_than"], wanted["newer_than"]
    return Filter(
        stage=wanted["stage"],
        job_id=wanted["job_id"],
        error=wanted["error"],
        before=None if older is None else now - older,
        since=None if newer is None else now - newer,
        place=wanted["place"],
        ids=frozenset(ids),
    )


def explicit_filter(ids: tuple[str, ...], everything: bool, wanted: dict[str, Any]) -> Filter:
    """Return the filter of a command that refuses to act on everything unless --all says so."""
    selected = filter_of(wanted, ids)
    if everything and not selected.is_empty:
        raise click.UsageError("--all selects every dead letter: give either --all, or ids and filters.")
    if selected.is_empty and not everything:
        raise click.UsageError("Select dead letters: give ids, filters (--job, --stage, …), or --all.")
    return selected
