"""Jobs as text and JSON, and waiting for them with a progress bar."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.cli.output import REMARKS, echo, print_json
from pipeline.client.waiting import ended_jobs
from pipeline.jobs import Job, JobState, JobStore, StageProgress

#: Failures of a job that are printed; ``jobs show --json`` has all.
FAILURES_SHOWN = 3


def job_fields(job: Job) -> dict[str, Any]:
    """Return a job as one JSON object. Times are seconds since 1970; ``seconds`` is its duration."""
    return {
        "job_id": job.job_id,
        "state": job.state.value,
        "entity_id": job.entity_id,
        "topic": job.topic,
        "submitted_at": job.submitted_at,
        "closed_at": job.closed_at,
        "seconds": None if job.closed_at is None else round(job.closed_at - job.submitted_at, 3),
        "failed_stages": sorted(job.failed),
        "redrives": job.redrives,
    }


def follow(store: JobStore, job_ids: Sequence[str], timeout: float | None, as_json: bool) -> int:
    """Wait for jobs and print how each ended, in the order given; return 1 unless all are complete."""
    ended = _wait(store, job_ids, timeout, silent=as_json)
    for job_id in job_ids:
        job = ended.get(job_id)
        if as_json:
            print_json(job_fields(job) if job else {"job_id": job_id, "state": JobState.RUNNING.value})
        else:
            echo(f"{job_id}  {_end(job, timeout)}")
            _print_failures(store, job)
    complete = [job_id for job_id, job in ended.items() if job.state is JobState.COMPLETE]
    return 0 if len(complete) == len(set(job_ids)) else 1


def in_order(stages: Iterable[StageProgress]) -> list[StageProgress]:
    """Sort stages by their work: finished ones by time, then running, then waiting.

    A job's record has no order: a map in DynamoDB has none.
    """
    return sorted(
        stages,
        key=lambda each: (
            each.finished_at is None,
            each.finished_at or 0,
            each.state in ("waiting", "not reached"),
            each.stage,
        ),
    )


def stage_line(stage: StageProgress) -> str:
    """Return the progress of one stage in a few words."""
    failed = f", {stage.failed} failed" if stage.failed else ""
    return f"{stage.stage} {stage.state} {done_of(stage)}{failed}"


def done_of(stage: StageProgress) -> str:
    """Return how many of a stage's tasks are done; "~" where not all of them were counted."""
    return f"{'' if stage.exact else '~'}{stage.done}/{stage.total}"


def _wait(store: JobStore, job_ids: Sequence[str], timeout: float | None, silent: bool) -> dict[str, Job]:
    columns = (
        TextColumn("jobs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    ended: dict[str, Job] = {}
    with Progress(
        *columns, console=REMARKS, transient=True, disable=silent or not REMARKS.is_terminal
    ) as bar:
        task = bar.add_task("", total=len(set(job_ids)))

        def show(running: Sequence[str]) -> None:
            if not bar.disable:
                bar.update(task, description=_where(store, running[0]))

        for job in ended_jobs(store, job_ids, timeout, show):
            ended[job.job_id] = job
            bar.advance(task)
    return ended


def _where(store: JobStore, job_id: str) -> str:
    """Return the first stage of a job that is not done, with its progress."""
    found = store.listing.progress(job_id)
    stages = [stage for stage in in_order(found[1]) if stage.state != "done"] if found else []
    return stage_line(stages[0]) if stages else ""


def _end(job: Job | None, timeout: float | None) -> str:
    if job is None:
        return f"still running after {timeout:g} s"
    return f"{job.state.value} after {(job.closed_at or job.updated_at) - job.submitted_at:.1f} s"


def _print_failures(store: JobStore, job: Job | None) -> None:
    if job is None or job.state is not JobState.FAILED:
        return
    failures = store.listing.failures(job.job_id)
    for number, failure in enumerate(failures):
        if number == FAILURES_SHOWN:
            echo(f"    and more: pipeline jobs show {job.job_id}")
            return
        echo(f"    {failure.stage} ({failure.part}): {failure.error}: {failure.message}")


def failure_fields(store: JobStore, job_id: str, most: int | None) -> list[dict[str, Any]]:
    """Return the failures of a job that were not redriven: the first ``most``, or all (None)."""
    return [asdict(failure) for failure in islice(store.listing.failures(job_id), most)]
