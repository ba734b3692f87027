"""The options that say which dead letters a command is about."""

import time
from collections.abc import Callable
from typing import Any

import click

from pipeline.cli.duration import Duration
from pipeline.deadletters import Filter

Command = Callable[..., Any]


def filters(command: Command) -> Command:
    """The options that say which dead letters are meant."""
    options = (
        click.option("--stage", help="Only those of this stage."),
        click.option("--job", "job_id", metavar="JOB_ID", help="Only those of this job."),
        click.option(
            "--exception",
            "error",
            metavar="CLASS",
            help="Only those of this exception, with or without its module; * stands for anything.",
        ),
        click.option("--older-than", type=Duration(), help="Given up on longer ago than this: 30m, 2h, 7d."),
        click.option("--newer-than", type=Duration(), help="Given up on since then."),
        click.option(
            "--only",
            "place",
            type=click.Choice(["sqs", "kafka", "errors"]),
            help="Only tasks, or only events. errors: the tasks that the errors topic tells of, for 30 days; "
            "those that SQS dropped after 14 are there.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def filter_of(wanted: dict[str, Any], ids: tuple[str, ...] = ()) -> Filter:
    """The filter that the options (and ids) of a command mean."""
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


def chosen(ids: tuple[str, ...], everything: bool, wanted: dict[str, Any]) -> Filter:
    """The same for a command that does nothing without being told which are meant."""
    meant = filter_of(wanted, ids)
    if everything and not meant.is_empty:
        raise click.UsageError("--all means all of them: leave it out, or the ids and filters.")
    if meant.is_empty and not everything:
        raise click.UsageError("Say which: ids, filters (--job, --stage, …), or --all.")
    return meant
