"""``pipeline replay``: send a stage's tasks again, from the events that its topic still has."""

import shlex
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import click

from pipeline.author.stages import Stage
from pipeline.bridge.replay import (
    Replay,
    Replayed,
    ReplayId,
    Window,
)
from pipeline.cli.options import Moment
from pipeline.cli.output import REMARKS, print_json
from pipeline.cli.service import read_settings, read_stages
from pipeline.jobs import JobStore

#: Records without a task that are named, without --json.
NAMED = 5

_LINES = {
    "sent": "{:,} tasks sent.",
    "found": "{:,} tasks would be sent.",
    "invalid": "{:,} records make no task: the bridge put them on the DLQ topic (pipeline dlq list).",
    "refused": "{:,} were not sent: SQS refuses them.",
}


@click.command(
    short_help="Send a stage's tasks again, from the events of its topic.",
    epilog="""\b
Examples:
  pipeline replay analyse --from 2h --dry-run
  pipeline replay analyse --from 2026-11-24T06:00 --to 2026-11-24T07:00
  pipeline replay analyse --from 1d --entity order-7 --again --json

TIME is ISO 8601, in UTC unless it says otherwise, or a duration ago: 90s, 30m, 2h, 7d. Exit code 1 when SQS
refuses a task; 130 after Ctrl-C. The command may be interrupted and repeated.""",
)
@click.argument("stage")
@click.option("--from", "begin", type=Moment(), required=True, help="Events since TIME, by Kafka's clock.")
@click.option("--to", "end", type=Moment(), help="Events before TIME; default: now.")
@click.option("--entity", help="Only events of this entity.")
@click.option("--again", is_flag=True, help="Also run finished tasks again: as new events, in new jobs.")
@click.option(
    "--resume", metavar="REPLAY_ID", help="Continue an interrupted --again, with the same jobs and tasks."
)
@click.option("--dry-run", is_flag=True, help="Only print what would be sent.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for each record.")
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

    Tasks keep their ids, so finished ones run no code again, unless --again is given. The topic is read
    outside the consumer group: no offset is committed and no bridge is disturbed.
    """
    now = time.time()
    window = Window(begin=begin, end=now if end is None else end, entity_id=entity)
    _check(window, now)
    settings = read_settings()
    registry = read_stages(settings)
    known = registry.by_name.get(stage)
    if known is None:
        raise click.UsageError(
            f"There is no stage {stage!r}. Stages: {', '.join(sorted(registry.by_name)) or 'none'}. "
            "TASK_MODULES names the modules with stages."
        )
    replay_id = _replay_id(again, resume)
    replaying = Replay(settings, registry, JobStore(settings), known, replay_id)
    counts: Counter[str] = Counter()
    try:
        _run(replaying, window, counts, dry=dry_run, as_json=as_json)
    except BaseException:
        if replaying.has_begun:
            REMARKS.print(_resume_hint(counts, known, window, replay_id))
        raise
    finally:
        replaying.close()
    _sum_up(counts, replay_id, dry=dry_run)
    sys.exit(1 if counts["refused"] else 0)


def _check(window: Window, now: float) -> None:
    if window.begin >= now:
        raise click.UsageError("--from is not in the past, so there are no events.")
    if window.begin >= window.end:
        raise click.UsageError("--to is not after --from.")


def _replay_id(again: bool, resume: str | None) -> ReplayId | None:
    if resume is None:
        return ReplayId.new() if again else None
    if not again:
        raise click.UsageError("--resume needs --again: only that has an id.")
    try:
        return ReplayId.read(resume)
    except ValueError as error:
        raise click.UsageError(f"--resume {error}.") from error


def _run(replaying: Replay, window: Window, counts: Counter[str], *, dry: bool, as_json: bool) -> None:
    text = f"reading {', '.join(replaying.topics)}"
    with REMARKS.status(text) as status:
        for replayed in replaying.run(window, dry=dry):
            counts[replayed.outcome] += 1
            if counts.total() % 100 == 0:
                status.update(f"{text}: {counts.total():,} events, {counts['sent']:,} tasks sent")
            if as_json:
                print_json(replayed.fields())
            elif replayed.why and counts[replayed.outcome] <= NAMED:
                REMARKS.print(_reason_line(replayed))


def _reason_line(replayed: Replayed) -> str:
    found = replayed.found
    place = f"{found.topic}, partition {found.partition}, offset {found.offset}"
    return f"{replayed.outcome}: {place}: {replayed.why}"


def _sum_up(counts: Counter[str], replay_id: ReplayId | None, *, dry: bool) -> None:
    if not counts:
        REMARKS.print("No event matches.")
    for outcome, line in _LINES.items():
        if counts[outcome]:
            REMARKS.print(line.format(counts[outcome]))
    if replay_id is not None and counts["sent"] and not dry:
        REMARKS.print(f"The id of this replay is {replay_id.text}.")


def _resume_hint(
    counts: Counter[str], stage: Stage[Any, Any], window: Window, replay_id: ReplayId | None
) -> str:
    """Return how far it came, and the command to continue."""
    command = ["pipeline replay", stage.name, "--from", _iso(window.begin), "--to", _iso(window.end)]
    if window.entity_id is not None:
        command += ["--entity", shlex.quote(window.entity_id)]
    if replay_id is not None:
        command += ["--again", "--resume", replay_id.text]
    return f"Interrupted after {counts['sent']:,} tasks or a few more. To continue:\n  {' '.join(command)}"


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
