"""``pipeline replay``: make a stage's tasks again from the events that its topic still has."""

import shlex
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import click

from consumers.replay import Replay, Replayed, ReplayId, Window
from pipeline.cli.edge import REMARKS, clean, print_json, read_settings, read_stages
from pipeline.cli.moment import Moment
from pipeline.jobs import JobStore
from pipeline.stages import Stage

#: How many records that make no task are named, without --json.
NAMED = 5

_LINES = {
    "sent": "{:,} tasks sent.",
    "found": "{:,} tasks would be sent.",
    "invalid": "{:,} records make no task: the bridge put them on the DLQ topic (pipeline dlq list).",
    "refused": "{:,} were not sent: SQS does not take them.",
}


@click.command(
    short_help="Send a stage's tasks again, from what its topic still has.",
    epilog="""\b
Examples:
  pipeline replay analyse --from 2h --dry-run
  pipeline replay analyse --from 2026-11-24T06:00 --to 2026-11-24T07:00
  pipeline replay analyse --from 1d --entity order-7 --again --json

TIME is ISO 8601, in UTC unless it says otherwise, or so long ago: 90s, 30m, 2h, 7d. Exit code 1 when SQS does
not take one of the tasks; 130 after Ctrl-C. It may be interrupted and repeated.""",
)
@click.argument("stage")
@click.option("--from", "begin", type=Moment(), required=True, help="Events that Kafka has since TIME.")
@click.option("--to", "end", type=Moment(), help="And until TIME, without it; now where it is not given.")
@click.option("--entity", help="Only those of this entity.")
@click.option("--again", is_flag=True, help="Run what is done as well: as new events, in jobs of their own.")
@click.option(
    "--resume", metavar="REPLAY_ID", help="Go on with an --again that was interrupted: its jobs, its tasks."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a record and line.")
def replay(
    stage: str,
    begin: float,
    end: float | None,
    entity: str | None,
    again: bool,
    resume: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send the tasks of STAGE again, for events that its topic still has.

    For what was lost or changed outside: tasks have the ids they had, so finished ones are recognised and run
    no code, unless --again. It reads beside the consumer group: nothing is committed, no bridge is disturbed.
    """
    now = time.time()
    window = Window(begin=begin, end=now if end is None else end, entity_id=entity)
    _check(window, now)
    settings = read_settings()
    registry = read_stages(settings)
    known = registry.by_name.get(stage)
    if known is None:
        raise click.UsageError(
            f"No stage is called {stage!r}. Stages: {', '.join(sorted(registry.by_name)) or 'none'}. "
            "TASK_MODULES says where stages are looked for."
        )
    replay_id = _replay_id(again, resume)
    replaying = Replay(settings, registry, JobStore(settings), known, replay_id)
    counts: Counter[str] = Counter()
    try:
        _run(replaying, window, counts, dry=dry_run, as_json=as_json)
    except BaseException:
        if replaying.has_begun:
            REMARKS.print(_unfinished(counts, known, window, replay_id))
        raise
    finally:
        replaying.close()
    _sum_up(counts, replay_id, dry=dry_run)
    sys.exit(1 if counts["refused"] else 0)


def _check(window: Window, now: float) -> None:
    if window.begin >= now:
        raise click.UsageError("--from is not in the past: there are no events yet.")
    if window.begin >= window.end:
        raise click.UsageError("--to is not after --from.")


def _replay_id(again: bool, resume: str | None) -> ReplayId | None:
    if resume is None:
        return ReplayId.new() if again else None
    if not again:
        raise click.UsageError("--resume goes with --again: only that has an id of its own.")
    try:
        return ReplayId.read(resume)
    except ValueError as error:
        raise click.UsageError(f"--resume {error}.") from error


def _run(replaying: Replay, window: Window, counts: Counter[str], *, dry: bool, as_json: bool) -> None:
    text = f"reading {replaying.topic}"
    with REMARKS.status(text) as status:
        for replayed in replaying.run(window, dry=dry):
            counts[replayed.outcome] += 1
            if counts.total() % 100 == 0:
                status.update(f"{text}: {counts.total():,} events, {counts['sent']:,} tasks sent")
            if as_json:
                print_json(replayed.fields())
            elif replayed.why and counts[replayed.outcome] <= NAMED:
                REMARKS.print(clean(_named(replayed)))


def _named(replayed: Replayed) -> str:
    found = replayed.found
    return f"{replayed.outcome}: partition {found.partition}, offset {found.offset}: {replayed.why}"


def _sum_up(counts: Counter[str], replay_id: ReplayId | None, *, dry: bool) -> None:
    if not counts:
        REMARKS.print("There are no such events.")
    for outcome, line in _LINES.items():
        if counts[outcome]:
            REMARKS.print(line.format(counts[outcome]))
    if replay_id is not None and counts["sent"] and not dry:
        REMARKS.print(f"The id of this replay is {replay_id.text}.")


def _unfinished(
    counts: Counter[str], stage: Stage[Any, Any], window: Window, replay_id: ReplayId | None
) -> str:
    """How far it came, and the command that goes on."""
    command = ["pipeline replay", stage.name, "--from", _iso(window.begin), "--to", _iso(window.end)]
    if window.entity_id is not None:
        command += ["--entity", shlex.quote(window.entity_id)]
    if replay_id is not None:
        command += ["--again", "--resume", replay_id.text]
    return f"Broken off after {counts['sent']:,} tasks or a few more. To go on:\n  {' '.join(command)}"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
