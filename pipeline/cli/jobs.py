"""``pipeline jobs``: what became of jobs."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

import click

from pipeline.cancelling import cancel_job
from pipeline.cli.duration import Duration
from pipeline.cli.edge import (
    clean,
    moment,
    print_json,
    producing,
    read_settings,
    read_stages,
    require_terminal,
)
from pipeline.cli.jobview import failure_fields, follow, in_order, job_fields
from pipeline.cli.lines import Lines
from pipeline.cli.remote import Remote, url_option
from pipeline.jobs import Job, JobState, JobStore, StageProgress
from pipeline.sweep import Sweep
from pipeline.web.model import JobFilter

#: Jobs read at once for a list.
PAGE = 100

#: Failures that are shown to a person: each of many thousand parts may have one.
FAILURES_LISTED = 20

#: A job, its stages in order, and its failures.
JobShown = tuple[Job, list[StageProgress], list[dict[str, Any]]]

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON: one object a job and line.")


@click.group(short_help="List, show, wait for and cancel jobs; find what stopped.")
def jobs() -> None:
    """List jobs, show one, wait for some, cancel them, or find those that stopped moving."""


@jobs.command(
    name="list",
    epilog="""\b
Examples:
  pipeline jobs list
  pipeline jobs list --state failed --newer-than 2h --json
  pipeline jobs list --entity order-7
  WEB_TOKEN=… pipeline jobs list --url https://jobs.example.com""",
)
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only these.")
@click.option("--entity", help="Only those of this entity.")
@click.option("--newer-than", type=Duration(), help="Submitted since so long ago: 30m, 2h, 7d.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
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
    """List jobs, the newest first."""
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
    lines = Lines("job", "state", "submitted (UTC)", "seconds", "entity", "topic")
    for job in found:
        seconds = "" if job.closed_at is None else f"{job.closed_at - job.submitted_at:.1f}"
        lines.add(job.job_id, job.state, moment(job.submitted_at), seconds, job.entity_id, job.topic)
    lines.print(
        "There are no jobs yet: pipeline submit starts one."
        if wanted == JobFilter()
        else "There are no such jobs.",
    )


@jobs.command(
    short_help="Show how far a job is, and why tasks of it failed.",
    epilog="""\b
Examples:
  pipeline jobs show 3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11
  pipeline jobs show 3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11 --json""",
)
@click.argument("job_id")
@url_option
@_json
def show(job_id: str, url: str | None, as_json: bool) -> None:
    """Show how far a job is, stage by stage, and why the first 20 tasks of it failed.

    Without --url, --json has all that failed.
    """
    most = None if as_json else FAILURES_LISTED + 1
    found = _told(Remote(url), job_id) if url else _read(JobStore(read_settings()), job_id, most)
    if found is None:
        raise _unknown(job_id)
    job, stages, failures = found
    if as_json:
        print_json({**job_fields(job), "stages": [asdict(each) for each in stages], "failures": failures})
        return
    click.echo(clean(f"{job.job_id}  {job.state}  entity {job.entity_id}  topic {job.topic}"))
    click.echo(f"submitted {moment(job.submitted_at)}  closed {moment(job.closed_at) or '-'} (UTC)")
    _stages(stages).print()
    for failure in failures[:FAILURES_LISTED]:
        click.echo(
            clean(
                f"{failure['stage']} ({failure['part']}) failed, attempts {failure['attempts']}: "
                f"{failure['error']}: {failure['message']}"
            )
        )
    if len(failures) > FAILURES_LISTED:
        click.echo("and more: --json shows all of them")


@jobs.command(
    short_help="Wait until jobs have ended.",
    epilog="""\b
Examples:
  pipeline jobs wait 3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11 && echo done
  pipeline jobs wait --timeout 600 --json 3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11""",
)
@click.argument("job_ids", nargs=-1, required=True, metavar="JOB_ID...")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait at most.")
@_json
def wait(job_ids: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """Wait until jobs have ended; exit code 1 unless all of them completed."""
    store = JobStore(read_settings())
    for job_id in job_ids:
        if store.job(job_id) is None:
            raise _unknown(job_id)
    sys.exit(follow(store, job_ids, timeout, as_json))


@jobs.command(
    epilog="""\b
Examples:
  pipeline jobs cancel 3f0c3c1e-5a44-5c0e-9f0e-2b7d0a6f8f11
  pipeline jobs list --state running --json | jq -r .job_id | xargs pipeline jobs cancel --yes

Exit code 1 unless all of them are cancelled."""
)
@click.argument("job_ids", nargs=-1, required=True, metavar="JOB_ID...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_json
def cancel(job_ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Cancel jobs that run. That is final: what has not started of them is skipped and never runs.

    What runs at this moment ends as ever and is recorded; what it emits starts nothing. A job that has ended
    stays as it is. May be repeated when it was interrupted.
    """
    settings = read_settings()
    store, wanted = JobStore(settings), list(dict.fromkeys(job_ids))
    for job_id in wanted:
        if store.job(job_id) is None:
            raise _unknown(job_id)
    if not yes:
        require_terminal("--yes")
        click.confirm(f"Cancel {len(wanted):,} for good?", abort=True, err=True)
    cancelled = 0
    with producing(settings, "jobs") as producer:
        for job_id in wanted:
            job = cancel_job(settings, store, producer, job_id)
            if job is None:
                raise _unknown(job_id)
            cancelled += job.state is JobState.CANCELLED
            if as_json:
                print_json(job_fields(job))
            else:
                click.echo(f"{job_id}  {_cancelled(job)}")
    sys.exit(0 if cancelled == len(wanted) else 1)


def _cancelled(job: Job) -> str:
    if job.state is JobState.CANCELLED:
        return "cancelled"
    if job.state is JobState.RUNNING:
        return "not cancelled: all its stages are done, and it is about to be complete"
    return f"not cancelled: it is {job.state.value}"


@jobs.command(
    short_help="Find jobs that stopped moving, and mend what can be.",
    epilog="""\b
Examples:
  pipeline jobs sweep
  pipeline jobs sweep --idle 1h --json | jq -r 'select(.kind == "lost").job_id'

The bridge does the same every minute. Exit code 1 when something is lost, or could not be mended.""",
)
@click.option(
    "--idle", type=Duration(), default="5m", show_default=True, help="Look at jobs open for longer than this."
)
@_json
def sweep(idle: float, as_json: bool) -> None:
    """Find jobs that stopped moving, say why, and mend what can be mended.

    Gives a reason to dead letters that SQS itself moved, records those a job does not know of, and closes
    what ended without being closed.
    """
    settings = read_settings()
    kinds: Counter[str] = Counter()
    with Sweep(settings, read_stages(settings)) as under_way:
        for finding in under_way.run(idle):
            kinds[finding.kind] += 1
            if as_json:
                print_json(asdict(finding))
            else:
                click.echo(clean(f"{finding.kind:<10} {finding.job_id or '-'}  {finding.text}"))
    if not kinds and not as_json:
        click.echo(f"No job is open for longer than {idle:g} s, and every dead letter has its reason.")
    sys.exit(1 if kinds["lost"] or kinds["failed"] else 0)


def _read(store: JobStore, job_id: str, most: int | None) -> JobShown | None:
    """A job from the services, with at most so many failures."""
    found = store.progress(job_id)
    return (found[0], in_order(found[1]), failure_fields(store, job_id, most)) if found else None


def _told(remote: Remote, job_id: str) -> JobShown | None:
    """The same as a jobs page tells it."""
    found = remote.job(job_id)
    if found is None:
        return None
    stages = in_order(row.progress for row in found.stages)
    return found.job, stages, [asdict(row.failure) for row in found.failures]


def _all_jobs(store: JobStore, wanted: JobFilter) -> Iterator[Job]:
    before = None
    while True:
        page = store.jobs(
            wanted.state, limit=PAGE, before=before, entity_id=wanted.entity_id, since=wanted.since
        )
        yield from page.jobs
        before = page.next
        if before is None:
            return


def _unknown(job_id: str) -> click.UsageError:
    return click.UsageError(
        f"There is no job {job_id!r} in this service. pipeline jobs list shows those there are."
    )


def _stages(stages: list[StageProgress]) -> Lines:
    lines = Lines("stage", "state", "tasks", "failed", "cancelled", "seconds", "worker")
    for each in stages:
        seconds = "" if each.run_seconds is None else f"{each.run_seconds:.3f}"
        tasks, failed, cancelled = (
            f"{each.done}/{each.total}",
            str(each.failed or ""),
            str(each.cancelled or ""),
        )
        lines.add(each.stage, each.state, tasks, failed, cancelled, seconds, each.worker or "")
    return lines
