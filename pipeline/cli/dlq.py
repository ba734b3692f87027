"""``pipeline dlq``: dead letters of the SQS dead-letter queue and of the Kafka DLQ topic."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, TextIO

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.cli.dlqview import print_letter, print_summary, table_of
from pipeline.cli.options import explicit_filter, filter_of, letter_filters
from pipeline.cli.output import REMARKS, json_text, print_json
from pipeline.cli.remote import Remote, url_option
from pipeline.cli.service import (
    one_job_id,
    producing,
    read_settings,
    read_stages,
    require_terminal,
    stored_job_ids,
)
from pipeline.deadletters import DeadLetter, Filter, LetterRow, Listing, Redriver, redrive_all, remove_all
from pipeline.jobs import JobStore
from pipeline.settings import Settings

#: Characters of a job id that this project makes.
WHOLE_ID = 36

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


@click.group(
    epilog="""\b
Examples:
  pipeline dlq list --newer-than 1d
  pipeline dlq redrive --stage analyse
  pipeline dlq export > dead-letters.jsonl"""
)
def dlq() -> None:
    """List, show, redrive, purge or export dead letters.

    Dead letters of tasks are on the SQS dead-letter queue, which keeps them for 14 days; those of events are
    on the Kafka DLQ topic. --only errors reads failed tasks from the errors topic, which keeps them for 30
    days. Reading removes nothing, but hides the messages of the queue from others while the command runs (a
    minute longer if it is killed). The task queue is never received from.
    """


@dlq.command(
    name="list",
    epilog="""\b
Examples:
  pipeline dlq list
  pipeline dlq list --stage analyse --exception 'Timeout*' --newer-than 2h
  pipeline dlq list --job 3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11 --json""",
)
@letter_filters
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Maximum number.")
@url_option
@_json
def list_letters(limit: int, url: str | None, as_json: bool, **wanted: Any) -> None:
    """List dead letters: what failed, when and why.

    With --url: those that the page finds in three seconds.
    """
    rows: Sequence[LetterRow]
    if url:
        remote = Remote(url)
        page = remote.letters(_with_job_id(filter_of(wanted), remote.job_ids))
        rows, more, unseen = page.rows[:limit], len(page.rows) > limit or not page.complete, page.unseen
        for each in page.away:
            REMARKS.print(f"{each.service} does not answer: {each.error}")
    else:
        settings = read_settings()
        with Listing(settings, _with_stored_job_id(filter_of(wanted), settings)) as listing:
            found, more = _first(listing.letters(), limit)
            rows, unseen = found, listing.unseen()
    for row in rows if as_json else ():
        print_json(row.fields())
    if not as_json:
        table_of(rows)
    if more:
        REMARKS.print(f"There are more than {limit}: raise --limit, or filter with --stage, --job and so on.")
    _report_hidden(unseen)


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

    ID is its own id, or that of its task as in logs and Flower.
    """
    unseen = 0
    if url:
        detail = Remote(url).letter(letter_id)
        letter = detail.details() if detail else None
    else:
        with Listing(read_settings(), Filter(ids=frozenset({letter_id}))) as listing:
            found = next(listing.letters(), None)
            letter, unseen = found.details() if found else None, listing.unseen()
    if letter is None:
        _report_hidden(unseen)
        raise click.UsageError(f"There is no dead letter {letter_id!r}. pipeline dlq list shows all.")
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

Exit code 1 when some could not be redriven: they stay where they are. The command may be interrupted and
repeated.""",
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@letter_filters
@click.option("--all", "everything", is_flag=True, help="Select every dead letter.")
@click.option("--yes", is_flag=True, help="Skip the confirmation prompt.")
@click.option("--dry-run", is_flag=True, help="Only print what would be redriven.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Maximum number a second.")
@click.option(
    "--out-of-order",
    is_flag=True,
    help="Also redrive ordered stages whose entity has run later tasks.",
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

    A dead letter whose task has succeeded since, or whose job is complete or cancelled, is only removed.
    """
    settings = read_settings()
    selected = _with_stored_job_id(explicit_filter(ids, everything, wanted), settings)
    registry = read_stages(settings)
    count = _confirm(settings, selected, "Redrive", yes=yes, dry_run=dry_run, as_json=as_json)
    if dry_run or count == 0:
        return
    outcomes: Counter[str] = Counter()
    with (
        producing(settings, "dlq") as producer,
        Listing(settings, selected) as listing,
        _progress(count, as_json) as advance,
        _summary_on_error(outcomes),
    ):
        redriver = Redriver(
            settings, registry, JobStore(settings), producer, listing.scan, out_of_order=out_of_order
        )
        for each in chain.from_iterable(redrive_all(listing, redriver, rate)):
            outcomes[each.outcome] += 1
            advance()
            if as_json:
                print_json({"id": each.letter.id, "outcome": each.outcome, "why": each.why})
            elif each.why:
                REMARKS.print(f"{each.letter.id} {each.outcome}: {each.why}")
    if not as_json:
        print_summary(outcomes)
    sys.exit(1 if outcomes["failed"] or outcomes["skipped"] else 0)


@dlq.command(
    epilog="""\b
Examples:
  pipeline dlq purge
  pipeline dlq purge --stage analyse --older-than 7d
  pipeline dlq purge --name orders-dlq.fifo --json

Exit code 1 when some could not be removed, or the name was wrong."""
)
@letter_filters
@click.option("--name", help="The name of the dead-letter queue; skips the prompt for it.")
@_json
def purge(name: str | None, as_json: bool, **wanted: Any) -> None:
    """Remove dead letters for good. Their jobs stay failed.

    Asks for the name of the queue. Dead letters of the Kafka topic are marked as handled and no longer
    listed; Kafka deletes them when their retention ends.
    """
    settings = read_settings()
    selected = _with_stored_job_id(filter_of(wanted), settings)
    if selected.place == "errors":
        raise click.UsageError("The errors topic cannot be purged: Kafka deletes its records after 30 days.")
    count = _confirm(settings, selected, "Remove", yes=True, dry_run=False, as_json=as_json)
    if count == 0:
        return
    queue = settings.sqs_dlq_url.rsplit("/", 1)[1]
    if name is None:
        require_terminal("--name")
        name = click.prompt(f"This cannot be undone. To confirm, type the queue's name ({queue})", err=True)
    if name != queue:
        raise click.ClickException(f"The dead-letter queue is {queue}, not {name}. Nothing was removed.")
    outcomes: Counter[str] = Counter()
    with (
        producing(settings, "dlq") as producer,
        Listing(settings, selected) as listing,
        _progress(count, as_json) as advance,
        _summary_on_error(outcomes),
    ):
        for letter, error in chain.from_iterable(remove_all(listing, producer, "purged")):
            outcome = "failed" if error else "purged"
            outcomes[outcome] += 1
            advance()
            if as_json:
                print_json({"id": letter.id, "outcome": outcome, "why": str(error or "")})
            elif error:
                REMARKS.print(f"{letter.id} failed: {error}")
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
@letter_filters
@click.option(
    "--output",
    type=click.File("w", encoding="utf-8", lazy=False),
    default="-",
    help="The file to write; - is standard output.",
)
def export(output: TextIO, **wanted: Any) -> None:
    """Write dead letters with all their data, one JSON object a line. Nothing is removed."""
    count = 0
    settings = read_settings()
    with Listing(settings, _with_stored_job_id(filter_of(wanted), settings)) as listing:
        for letter in listing.letters():
            output.write(json_text(letter.details()) + "\n")
            count += 1
        unseen = listing.unseen()
    REMARKS.print(f"{count} dead letters.")
    _report_hidden(unseen)


def _first(letters: Iterator[DeadLetter], limit: int) -> tuple[list[DeadLetter], bool]:
    found: list[DeadLetter] = []
    for letter in letters:
        if len(found) == limit:
            return found, True
        found.append(letter)
    return found, False


# ─── Job ids ───


def _with_job_id(selected: Filter, search: Callable[[str], Sequence[str]]) -> Filter:
    """Return the filter with the whole id of the job that --job is, or begins."""
    text = selected.job_id
    # A job's record may expire before its dead letters: a whole id needs no record.
    if text is None or len(text) == WHOLE_ID:
        return selected
    found = search(text)
    return replace(selected, job_id=one_job_id(text, found)) if found else selected


def _with_stored_job_id(selected: Filter, settings: Settings) -> Filter:
    return _with_job_id(selected, lambda text: stored_job_ids(JobStore(settings), text))


# ─── Confirmation ───


def _confirm(
    settings: Settings, selected: Filter, verb: str, *, yes: bool, dry_run: bool, as_json: bool
) -> int:
    """Print what is selected, ask for confirmation, and return how many letters there are."""
    kinds: Counter[tuple[str, str]] = Counter()
    missing = set(selected.ids)
    with Listing(settings, selected) as listing:
        for letter in listing.letters():
            kinds[letter.stage or letter.task or letter.source or "?", letter.error] += 1
            missing -= letter.names()
            if dry_run and as_json:
                print_json(letter.fields())
        unseen = listing.unseen()
    count = kinds.total()
    if not as_json:
        for (what, error), number in kinds.most_common():
            REMARKS.print(f"{number:>7,}  {what}  {error}")
    _report_hidden(unseen)
    if missing:
        raise click.UsageError(
            f"There is no dead letter {', '.join(sorted(missing))}, or another person is looking at it now. "
            "pipeline dlq list shows all; with --only errors also those that SQS dropped."
        )
    if count == 0:
        REMARKS.print("No dead letter matches.")
    elif not yes and not dry_run:
        require_terminal("--yes")
        click.confirm(f"{verb} {count:,}?", abort=True, err=True)
    return count


def _report_hidden(unseen: int) -> None:
    if unseen:
        REMARKS.print(
            f"About {unseen:,} more on the queue are hidden now: another person is looking at them, or SQS "
            "moved them and they wait behind others of their group (pipeline jobs sweep gives them a reason)."
        )


# ─── Progress ───


@contextmanager
def _summary_on_error(outcomes: Counter[str]) -> Iterator[None]:
    """On Ctrl-C, or an error of a service: print what was done until then."""
    try:
        yield
    except BaseException:
        print_summary(outcomes)
        REMARKS.print("Interrupted; up to ten more may be done. Run the same command again for the rest.")
        raise


@contextmanager
def _progress(total: int, silent: bool) -> Iterator[Callable[[], None]]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    disabled = silent or not REMARKS.is_terminal
    with Progress(*columns, console=REMARKS, transient=True, disable=disabled) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
