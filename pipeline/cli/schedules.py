"""``pipeline schedules``: list, pause and resume schedules."""

import time
from dataclasses import asdict

import click

from pipeline.cli.output import Lines, echo, moment, print_json
from pipeline.cli.service import read_settings
from pipeline.jobs import JobStore, ScheduleRecords
from pipeline.schedules.status import read_schedules


@click.group(
    invoke_without_command=True,
    short_help="List schedules with their last and next tick; pause them.",
    epilog="""\b
Examples:
  pipeline schedules
  pipeline schedules --json | jq -r 'select(.error) | .name'
  pipeline schedules pause report""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def schedules(context: click.Context, as_json: bool) -> None:
    """List the schedules of stages and of Celery's beat_schedule, or pause one.

    They are those that a bridge recorded. State "unattended": no bridge fires them now; "removed": the code
    of the bridge that fires does not have them.
    """
    if context.invoked_subcommand is not None:
        return
    found = read_schedules(_records(), time.time())
    if as_json:
        for each in found:
            print_json(asdict(each))
        return
    lines = Lines(
        "schedule", "runs", "ticks", "last tick (UTC)", "next tick (UTC)", "state", "error", ids=("schedule",)
    )
    for each in found:
        last, following = moment(each.last_tick), moment(each.next_tick)
        lines.add(each.name, each.runs, each.ticks, last, following, each.state, each.error or "")
    lines.print("There are no schedules, or no bridge has run since the first was defined.")


@schedules.command(
    epilog="""\b
Examples:
  pipeline schedules pause report
  pipeline schedules pause beat:cleanup"""
)
@click.argument("name")
def pause(name: str) -> None:
    """Pause a schedule: its ticks are passed over until it is resumed."""
    _set(name, paused=True)
    echo(f"{name} is paused.")


@schedules.command(
    epilog="""\b
Examples:
  pipeline schedules resume report
  pipeline schedules resume beat:cleanup"""
)
@click.argument("name")
def resume(name: str) -> None:
    """Resume a paused schedule with its next tick."""
    _set(name, paused=False)
    echo(f"{name} is resumed.")


def _records() -> ScheduleRecords:
    return JobStore(read_settings()).schedules


def _set(name: str, *, paused: bool) -> None:
    if not _records().pause(name, paused=paused, now=time.time()):
        raise click.UsageError(f"There is no schedule {name!r}. pipeline schedules lists all.")
