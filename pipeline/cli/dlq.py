"""``pipeline dlq``: dead letters, of the SQS dead-letter queue and of the Kafka DLQ topic."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from typing import Any, TextIO

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from config.settings import Settings
from pipeline.cli.dlqfilters import chosen, filter_of, filters
from pipeline.cli.dlqview import print_letter, print_summary, table_of
from pipeline.cli.edge import (
    REMARKS,
    clean,
    print_json,
    producing,
    read_settings,
    read_stages,
    require_terminal,
)
from pipeline.cli.remote import Remote, url_option
from pipeline.deadletters import DeadLetter, Filter, Look, Redriver, redrive_all, remove_all
from pipeline.jobs import JobStore
from pipeline.web.model import LetterRow

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON: one object a dead letter and line.")


@click.group()
def dlq() -> None:
    """Dead letters: list, show, redrive, purge or export them.

    Those of tasks are on the SQS dead-letter queue, which keeps them for 14 days, those of events on the
    Kafka DLQ topic. --only errors: the tasks that the errors topic tells of, for 30 days. Looking takes
    nothing away: what is looked at on the queue is hidden from others while the command runs, and for a
    minute if it is killed. The live queue is never received from.
    """


@dlq.command(
    name="list",
    epilog="""\b
Examples:
  pipeline dlq list
  pipeline dlq list --stage analyse --exception 'Timeout*' --newer-than 2h
  pipeline dlq list --job 3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11 --json""",
)
@filters
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@url_option
@_json
def list_letters(limit: int, url: str | None, as_json: bool, **wanted: Any) -> None:
    """List dead letters: what failed, when and why. With --url, those that a look of three seconds finds."""
    rows: Sequence[DeadLetter | LetterRow]
    if url:
        told = Remote(url).letters(filter_of(wanted))
        rows, more, unseen = told.rows[:limit], len(told.rows) > limit or not told.complete, told.unseen
        for each in told.away:
            REMARKS.print(clean(f"{each.service} is away: {each.error}"))
    else:
        with Look(read_settings(), filter_of(wanted)) as look:
            found, more = _first(look.letters(), limit)
            rows, unseen = found, look.unseen()
    for row in rows if as_json else ():
        print_json(row.fields(full=False) if isinstance(row, DeadLetter) else asdict(row))
    if not as_json:
        table_of(rows)
    if more:
        REMARKS.print(f"There are more than {limit}: --limit shows more, --stage, --job and so on fewer.")
    _say_unseen(unseen)


@dlq.command(
    epilog="""\b
Examples:
  pipeline dlq show 6f1c1e0a-3f39-4d4c-a7a2-7a3b9d7b9a55
  pipeline dlq show kafka:0:17 --json | jq .data"""
)
@click.argument("letter_id", metavar="ID")
@url_option
@_json
def show(letter_id: str, url: str | None, as_json: bool) -> None:
    """Show one dead letter: its data, headers, reason and traceback.

    ID is its own, or that of its task, as logs and Flower show it.
    """
    unseen = 0
    if url:
        told = Remote(url).letter(letter_id)
        letter = told.fields() if told else None
    else:
        with Look(read_settings(), Filter(ids=frozenset({letter_id}))) as look:
            found = next(look.letters(), None)
            letter, unseen = found.fields(full=True) if found else None, look.unseen()
    if letter is None:
        _say_unseen(unseen)
        raise click.UsageError(
            f"There is no dead letter {letter_id!r}. pipeline dlq list shows those there are."
        )
    if as_json:
        print_json(letter)
    else:
        print_letter(letter)


@dlq.command(
    short_help="Put dead letters back where they came from.",
    epilog="""\b
Examples:
  pipeline dlq redrive 6f1c1e0a-3f39-4d4c-a7a2-7a3b9d7b9a55
  pipeline dlq redrive --job 3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11
  pipeline dlq redrive --stage analyse --newer-than 1d --dry-run
  pipeline dlq redrive --all --yes --rate 50
  pipeline dlq redrive --only errors --stage analyse --older-than 14d

Exit code 1 when some could not be redriven: they are where they were. It may be interrupted and repeated.""",
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filters
@click.option("--all", "everything", is_flag=True, help="All there are.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be redriven.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="At most so many a second.")
@click.option(
    "--out-of-order",
    is_flag=True,
    help="Also those of ordered stages, although later tasks of their entity have run.",
)
@_json
def redrive(
    ids: tuple[str, ...],
    everything: bool,
    yes: bool,
    dry_run: bool,
    rate: float | None,
    out_of_order: bool,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Put dead letters back where they came from; their jobs run again, and complete when they succeed.

    A dead letter whose task is done after all, or whose job is complete or cancelled, is only removed.
    """
    settings = read_settings()
    meant = chosen(ids, everything, wanted)
    registry = read_stages(settings)
    count = _confirm(settings, meant, "Redrive", yes=yes, dry_run=dry_run, as_json=as_json)
    if dry_run or count == 0:
        return
    outcomes: Counter[str] = Counter()
    with (
        producing(settings, "dlq") as producer,
        Look(settings, meant) as look,
        _progress(count, as_json) as advance,
        _saying_how_far(outcomes),
    ):
        redriver = Redriver(
            settings, registry, JobStore(settings), producer, look.walk, out_of_order=out_of_order
        )
        for each in chain.from_iterable(redrive_all(look, redriver, rate)):
            outcomes[each.outcome] += 1
            advance()
            if as_json:
                print_json({"id": each.letter.id, "outcome": each.outcome, "why": each.why})
            elif each.why:
                REMARKS.print(clean(f"{each.letter.id} {each.outcome}: {each.why}"))
    if not as_json:
        print_summary(outcomes)
    sys.exit(1 if outcomes["failed"] or outcomes["skipped"] else 0)


@dlq.command(
    epilog="""\b
Examples:
  pipeline dlq purge
  pipeline dlq purge --stage analyse --older-than 7d
  pipeline dlq purge --name orders-dlq.fifo --json

Exit code 1 when some could not be removed, or another name was typed."""
)
@filters
@click.option("--name", help="The dead-letter queue's name, for who cannot be asked for it.")
@_json
def purge(name: str | None, as_json: bool, **wanted: Any) -> None:
    """Remove dead letters for good. Their jobs stay failed.

    Asks for the name of the queue. Those of the Kafka topic are no longer shown; Kafka itself keeps them
    until their retention ends.
    """
    settings = read_settings()
    meant = filter_of(wanted)
    if meant.place == "errors":
        raise click.UsageError("What the errors topic tells cannot be removed: Kafka does, after 30 days.")
    count = _confirm(settings, meant, "Remove", yes=True, dry_run=False, as_json=as_json)
    if count == 0:
        return
    queue = settings.sqs_dlq_url.rsplit("/", 1)[1]
    if name is None:
        require_terminal("--name")
        name = click.prompt(f"They cannot be brought back. The dead-letter queue's name ({queue})", err=True)
    if name != queue:
        raise click.ClickException(f"The dead-letter queue is {queue}, not {name}. Nothing was removed.")
    outcomes: Counter[str] = Counter()
    with (
        producing(settings, "dlq") as producer,
        Look(settings, meant) as look,
        _progress(count, as_json) as advance,
        _saying_how_far(outcomes),
    ):
        for letter, error in chain.from_iterable(remove_all(look, producer, "purged")):
            outcome = "failed" if error else "purged"
            outcomes[outcome] += 1
            advance()
            if as_json:
                print_json({"id": letter.id, "outcome": outcome, "why": str(error or "")})
            elif error:
                REMARKS.print(clean(f"{letter.id} failed: {error}"))
    if not as_json:
        print_summary(outcomes)
    sys.exit(1 if outcomes["failed"] else 0)


@dlq.command(
    short_help="Write dead letters as JSON lines; nothing is removed.",
    epilog="""\b
Examples:
  pipeline dlq export > dead-letters.jsonl
  pipeline dlq export --job 3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11 --output one-job.jsonl""",
)
@filters
@click.option(
    "--output",
    type=click.File("w", encoding="utf-8", lazy=False),
    default="-",
    help="A file; - is standard output.",
)
def export(output: TextIO, **wanted: Any) -> None:
    """Write dead letters with all that is known of them: a JSON object on each line. Nothing is removed."""
    count = 0
    with Look(read_settings(), filter_of(wanted)) as look:
        for letter in look.letters():
            output.write(json.dumps(letter.fields(full=True), ensure_ascii=False) + "\n")
            count += 1
        unseen = look.unseen()
    REMARKS.print(f"{count} dead letters.")
    _say_unseen(unseen)


def _first(letters: Iterator[DeadLetter], limit: int) -> tuple[list[DeadLetter], bool]:
    found: list[DeadLetter] = []
    for letter in letters:
        if len(found) == limit:
            return found, True
        found.append(letter)
    return found, False


# ─── Asking ───


def _confirm(settings: Settings, meant: Filter, verb: str, *, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Say how many are meant, and ask; how many there are, 0 when there is nothing to do."""
    kinds: Counter[tuple[str, str]] = Counter()
    missing = set(meant.ids)
    with Look(settings, meant) as look:
        for letter in look.letters():
            kinds[letter.stage or letter.task or letter.source or "?", letter.error] += 1
            missing -= letter.names()
            if dry_run and as_json:
                print_json(letter.fields(full=False))
        unseen = look.unseen()
    count = kinds.total()
    if not as_json:
        for (what, error), number in kinds.most_common():
            REMARKS.print(clean(f"{number:>7,}  {what}  {error}"))
    _say_unseen(unseen)
    if missing:
        raise click.UsageError(
            f"There is no dead letter {', '.join(sorted(missing))}, or it is being looked at elsewhere. "
            "pipeline dlq list shows those there are, with --only errors those that SQS dropped."
        )
    if count == 0:
        REMARKS.print("There are no such dead letters.")
    elif not yes and not dry_run:
        require_terminal("--yes")
        click.confirm(f"{verb} {count:,}?", abort=True, err=True)
    return count


def _say_unseen(unseen: int) -> None:
    if unseen:
        REMARKS.print(
            f"About {unseen:,} more on the queue cannot be seen now: somebody else looks at them, or SQS "
            "moved them and they wait behind others of their group (pipeline jobs sweep gives them a reason)."
        )


# ─── Doing ───


@contextmanager
def _saying_how_far(outcomes: Counter[str]) -> Iterator[None]:
    """Where Ctrl-C, or a service that is away, breaks it off: say what was done by then."""
    try:
        yield
    except BaseException:
        print_summary(outcomes)
        REMARKS.print("Broken off, with up to ten more under way. The same command goes on with the others.")
        raise


@contextmanager
def _progress(total: int, silent: bool) -> Iterator[Callable[[], None]]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    disabled = silent or not REMARKS.is_terminal
    with Progress(*columns, console=REMARKS, transient=True, disable=disabled) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
