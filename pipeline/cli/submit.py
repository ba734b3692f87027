"""``pipeline submit``: start jobs."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from pipeline.cli.jobview import follow
from pipeline.cli.output import REMARKS, echo, print_json
from pipeline.cli.service import producing, read_settings, read_stages
from pipeline.client.submission import Submission, SubmittedJob, Submitter, check_entity, check_key
from pipeline.errors import InvalidEventError, InvalidInputError, PipelineError
from pipeline.jobs import JobStore
from pipeline.kafka import EventProducer
from pipeline.settings import Settings
from pipeline.telemetry import tracing

#: Jobs whose records and events are written together.
BATCH = 500

#: Faults of a file that are printed.
FAULTS_SHOWN = 5


@click.command(
    short_help="Start jobs, at a stage or with an event on a topic.",
    epilog="""\b
Examples:
  pipeline submit extract --data '{"path": "/usr/share/dict/words"}' --wait
  pipeline submit document-received --file documents.jsonl --json
  pipeline submit extract --data '{"path": "/etc/hosts"}' --key hosts-of-monday
  cat documents.jsonl | pipeline submit extract --file - --entity nightly""",
)
@click.argument("start", metavar="STAGE|TOPIC")
@click.option("--data", help="The data of one job, as JSON.")
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="A file with the data of one job on each line, as JSON; - is standard input.",
)
@click.option(
    "--entity",
    help="The entity of the jobs, the key of their events. Default: one for each job.",
)
@click.option(
    "--key",
    help="A name of your own for the job: submitted again under it, the job runs once. With --data only.",
)
@click.option(
    "--wait", is_flag=True, help="Wait until the jobs have ended. Exit code 1 unless all completed."
)
@click.option("--timeout", type=click.FloatRange(min=0), help="Maximum seconds to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for each job.")
def submit(
    start: str,
    data: str | None,
    path: Path | None,
    entity: str | None,
    key: str | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Start a job for each piece of data, at a stage or with an event on a topic.

    Nothing is submitted when any of the data could only fail: it is not JSON, or does not fit the stage's
    annotation.
    """
    if (data is None) == (path is None):
        raise click.UsageError("Give either --data JSON or --file PATH with the data of the jobs.")
    if key is not None and data is None:
        raise click.UsageError("--key names one job: give its data with --data.")
    for option, value, check in (("--entity", entity, check_entity), ("--key", key, check_key)):
        try:
            check(value)
        except InvalidEventError as error:
            raise click.UsageError(f"{option}: {error}.") from error
    settings = read_settings()
    given = (
        [("--data", data.encode(errors="surrogateescape"))] if data is not None else _lines(path or Path("-"))
    )
    if not given:
        raise click.UsageError(f"{path} has nothing to submit: write the JSON of one job on each line.")
    store = JobStore(settings)
    with _producer(settings) as producer:
        try:
            submitter = Submitter(settings, read_stages(settings), store, producer, start)
        except InvalidEventError as error:
            raise click.UsageError(str(error)) from error
        submissions = [Submission(data=line, entity_id=entity, key=key) for _, line in given]
        _check(submitter, [place for place, _ in given], submissions)
        with REMARKS.status(f"submitting {len(submissions):,} jobs to {submitter.topic}"):
            jobs = _submit(submitter, submissions, silent=wait and as_json, as_json=as_json)
    code = follow(store, [job.job_id for job in jobs], timeout, as_json) if wait and jobs else 0
    sys.exit(1 if len(jobs) < len(submissions) else code)


def _lines(path: Path) -> list[tuple[str, bytes]]:
    """Return each line that is not blank, with its number."""
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise click.UsageError(f"--file {path} cannot be read: {error.strerror}.") from error
    lines = enumerate(content.split(b"\n"), 1)
    return [(f"line {number}", line.strip()) for number, line in lines if line.strip()]


def _check(submitter: Submitter, places: Sequence[str], submissions: Sequence[Submission]) -> None:
    faults = []
    for place, submission in zip(places, submissions, strict=True):
        try:
            submitter.check(submission)
        except (InvalidEventError, InvalidInputError) as error:
            faults.append(f"{place}: {error}")
    if faults:
        more = f"\nand {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        raise click.UsageError(
            "Nothing was submitted, because these would fail:\n" + "\n".join(faults[:FAULTS_SHOWN]) + more
        )


def _submit(
    submitter: Submitter, submissions: Sequence[Submission], silent: bool, as_json: bool
) -> list[SubmittedJob]:
    """Submit all; print each job and each failure; return the submitted jobs."""
    jobs: list[SubmittedJob] = []
    for begin in range(0, len(submissions), BATCH):
        for answer in submitter.submit(submissions[begin : begin + BATCH]):
            if isinstance(answer, PipelineError):
                REMARKS.print(f"Not submitted: {answer}")
                continue
            jobs.append(answer)
            if as_json and not silent:
                print_json(asdict(answer))
            elif not silent:
                echo(answer.job_id)
    return jobs


@contextmanager
def _producer(settings: Settings) -> Iterator[EventProducer]:
    tracing.start(settings.service_name, os.environ)
    try:
        with producing(settings, "submit") as producer:
            yield producer
    finally:
        tracing.stop()
