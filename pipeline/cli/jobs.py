"""``pipeline jobs``: list, show, wait for, cancel and sweep jobs."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

import click

from pipeline.cli.jobview import done_of, failure_fields, follow, in_order, job_fields
from pipeline.cli.options import Duration
from pipeline.cli.output import Lines, echo, moment, print_json
from pipeline.cli.remote import Remote, url_option
from pipeline.cli.service import (
    one_job_id,
    producing,
    read_settings,
    read_stages,
    require_terminal,
    stored_job_ids,
    unknown_job,
)
from pipeline.deadletters.jobsweep import JobSweep
from pipeline.jobs import Job, JobState, JobStore, StageProgress
from pipeline.ledger import Ledger
from pipeline.patience import Patience
from pipeline.web.model import JobFilter

#: Jobs read at once for a list.
PAGE = 100

#: Failures that are printed without --json: each of many thousand parts may have one.
FAILURES_LISTED = 20

#: A job, its stages in order, and its failures.
JobReading = tuple[Job, list[StageProgress], list[dict[str, Any]]]

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


@click.group(
    short_help="List, show, wait for and cancel jobs; find stalled ones.",
    epilog="""\b
Examples:
  pipeline jobs list --state failed
  pipeline jobs show 3f0c3c1e
  pipeline jobs wait 3f0c3c1e && echo done""",
)
def jobs() -> None:
    """List jobs, show one, wait for jobs, cancel them, or find stalled ones."""


@jobs.command(
    name="list",
    epilog="""\b
Examples:
  pipeline jobs list
  pipeline jobs list --state failed --newer-than 2h --json
  pipeline jobs list --entity order-7
  WEB_TOKEN=… pipeline jobs list --url https://jobs.example.com""",
)
@click.option(
    "--state", type=click.Choice([state.value for state in JobState]), help="Only jobs in this state."
)
@click.option("--entity", help="Only jobs of this entity.")
@click.option("--newer-than", type=Duration(), help="Only jobs submitted within this time: 30m, 2h, 7d.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Maximum number.")
@url_option
@_json
def list_jobs(
    state: str | None,
    entity: str | None,
    newer_than: float | None,
    limit: int,
    url: str | None,
    as_json: bool,
) -> None:
    """List jobs, newest first."""
    wanted = JobFilter(
        state=JobState(state) if state else None,
        entity_id=entity,
        since=None if newer_than is None else time.time() - newer_than,
    )
    every = Remote(url).jobs(wanted) if url else _all_jobs(JobStore(read_settings()), wanted)
    found = islice(every, limit)
    if as_json:
        for job in found:
            print_json(job_fields(job))
        return
    lines = Lines("job", "state", "submitted (UTC)", "seconds", "entity", "topic", ids=("job",))
    for job in found:
        seconds = "" if job.closed_at is None else f"{job.closed_at - job.submitted_at:.1f}"
        lines.add(job.job_id, job.state, moment(job.submitted_at), seconds, job.entity_id, job.topic)
    lines.print(
        "There are no jobs yet. Start one with pipeline submit."
        if wanted == JobFilter()
        else "No job matches.",
    )


@jobs.command(
    short_help="Show the progress of a job and its failures.",
    epilog="""\b
Examples:
  pipeline jobs show 3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11
  pipeline jobs show 3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11 --json""",
)
@click.argument("job_id")
@url_option
@_json
def show(job_id: str, url: str | None, as_json: bool) -> None:
    """Show the progress of a job, stage by stage, and its first 20 failures.

    JOB_ID may be the beginning of an id, at least 4 characters. --json has all failures, except with --url.
    """
    most = None if as_json else FAILURES_LISTED + 1
    job, stages, failures = (
        _from_page(Remote(url), job_id) if url else _read(JobStore(read_settings()), job_id, most)
    )
    if as_json:
        print_json({**job_fields(job), "stages": [asdict(each) for each in stages], "failures": failures})
        return
    echo(f"{job.job_id}  {job.state}  entity {job.entity_id}  topic {job.topic}")
    echo(f"submitted {moment(job.submitted_at)}  closed {moment(job.closed_at) or '-'} (UTC)")
    _stages(stages).print()
    for failure in failures[:FAILURES_LISTED]:
        echo(
            f"{failure['stage']} ({failure['part']}) failed, attempts {failure['attempts']}: "
            f"{failure['error']}: {failure['message']}"
        )
    if len(failures) > FAILURES_LISTED:
        echo("and more: --json has all of them")


@jobs.command(
    short_help="Wait until jobs have ended.",
    epilog="""\b
Examples:
  pipeline jobs wait 3f0c3c1e && echo done
  pipeline jobs wait --timeout 600 --json 3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11""",
)
@click.argument("job_ids", nargs=-1, required=True, metavar="JOB_ID...")
@click.option("--timeout", type=click.FloatRange(min=0), help="Maximum seconds to wait.")
@_json
def wait(job_ids: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """Wait until jobs have ended. Exit code 1 unless all of them completed.

    JOB_ID may be the beginning of an id, at least 4 characters.
    """
    store = JobStore(read_settings())
    wanted = [one_job_id(job_id, stored_job_ids(store, job_id)) for job_id in job_ids]
    sys.exit(follow(store, wanted, timeout, as_json))


@jobs.command(
    short_help="Cancel running jobs for good.",
    epilog="""\b
Examples:
  pipeline jobs cancel 3f0c3c1e
  pipeline jobs list --state running --json | jq -r .job_id | xargs pipeline jobs cancel --yes

Exit code 1 unless all of them are cancelled.""",
)
@click.argument("job_ids", nargs=-1, required=True, metavar="JOB_ID...")
@click.option("--yes", is_flag=True, help="Skip the confirmation prompt.")
@_json
def cancel(job_ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Cancel running jobs for good: tasks of them that have not started never run.

    JOB_ID may be the beginning of an id, at least 4 characters.

    Tasks that run at this moment end and are recorded, and the events they emit start nothing. Jobs that have
    ended stay as they are. The command may be repeated when it was interrupted.
    """
    settings = read_settings()
    store = JobStore(settings)
    wanted = list(dict.fromkeys(one_job_id(job_id, stored_job_ids(store, job_id)) for job_id in job_ids))
    if not yes:
        require_terminal("--yes")
        click.confirm(f"Cancel {len(wanted):,} jobs for good?", abort=True, err=True)
    cancelled = 0
    with producing(settings, "jobs") as producer:
        ledger = Ledger(settings, store, producer, Patience(waits=False))
        for job_id in wanted:
            job = ledger.cancel(job_id)
            if job is None:
                raise unknown_job(job_id)
            cancelled += job.state is JobState.CANCELLED
            if as_json:
                print_json(job_fields(job))
            else:
                echo(f"{job_id}  {_cancel_outcome(job)}")
    sys.exit(0 if cancelled == len(wanted) else 1)


def _cancel_outcome(job: Job) -> str:
    if job.state is JobState.CANCELLED:
        return "cancelled"
    if job.state is JobState.RUNNING:
        return "not cancelled: all its stages are done, it completes now"
    return f"not cancelled: it is already {job.state.value}"


@jobs.command(
    short_help="Find stalled jobs, and repair them.",
    epilog="""\b
Examples:
  pipeline jobs sweep
  pipeline jobs sweep --idle 1h --json | jq -r 'select(.kind == "lost").job_id'

The bridge does the same every minute. Exit code 1 when a task is lost, or a repair failed.""",
)
@click.option(
    "--idle",
    type=Duration(),
    default="5m",
    show_default=True,
    help="Only jobs open for longer than this.",
)
@_json
def sweep(idle: float, as_json: bool) -> None:
    """Find jobs without progress, print why, and repair them where possible.

    Adds the reason to dead letters that SQS itself moved, records dead letters that their job does not know,
    and closes jobs that have ended.
    """
    settings = read_settings()
    kinds: Counter[str] = Counter()
    with JobSweep(settings, read_stages(settings)) as under_way:
        for finding in under_way.run(idle):
            kinds[finding.kind] += 1
            if as_json:
                print_json(asdict(finding))
            else:
                echo(f"{finding.kind:<10} {finding.job_id or '-'}  {finding.text}")
    if not kinds and not as_json:
        echo(f"No job is open for longer than {idle:g} s, and every dead letter has a reason.")
    sys.exit(1 if kinds["lost"] or kinds["failed"] else 0)


def _read(store: JobStore, text: str, most: int | None) -> JobReading:
    """Read a job from the services, with at most ``most`` failures."""
    job_id = one_job_id(text, stored_job_ids(store, text))
    found = store.listing.progress(job_id)
    if found is None:
        raise unknown_job(text)
    return found[0], in_order(found[1]), failure_fields(store, job_id, most)


def _from_page(remote: Remote, text: str) -> JobReading:
    """Read a job from a jobs page."""
    found = remote.job(one_job_id(text, remote.job_ids(text)))
    if found is None:
        raise unknown_job(text)
    stages = in_order(row.progress for row in found.stages)
    return found.job, stages, [asdict(row.failure) for row in found.failures]


def _all_jobs(store: JobStore, wanted: JobFilter) -> Iterator[Job]:
    before = None
    while True:
        page = store.listing.jobs(
            wanted.state, limit=PAGE, before=before, entity_id=wanted.entity_id, since=wanted.since
        )
        yield from page.jobs
        before = page.next
        if before is None:
            return


def _stages(stages: list[StageProgress]) -> Lines:
    lines = Lines("stage", "state", "tasks", "failed", "cancelled", "seconds", "worker")
    for each in stages:
        seconds = "" if each.run_seconds is None else f"{each.run_seconds:.3f}"
        tasks, failed, cancelled = (
            done_of(each),
            str(each.failed or ""),
            str(each.cancelled or ""),
        )
        lines.add(each.stage, each.state, tasks, failed, cancelled, seconds, each.worker or "")
    return lines
