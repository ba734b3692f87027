"""The run of the demo: provision, start, submit, watch, verify."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from pipeline.author.loading import load_stages
from pipeline.author.registry import Registry
from pipeline.client.submission import Submission, Submitter
from pipeline.client.waiting import ended_jobs
from pipeline.demo.allowed import VARIABLE, variable_of
from pipeline.demo.changes import CONSUMER_MODULE, Table
from pipeline.demo.processes import Processes
from pipeline.demo.progress import Display, Progress, Watch
from pipeline.demo.report import Report
from pipeline.demo.verify import differences
from pipeline.errors import PipelineError
from pipeline.infra.provision import provision
from pipeline.jobs import JobState, JobStore
from pipeline.kafka import EventProducer
from pipeline.services.children import Children
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from pipeline.vault import environment

#: How the documents come: submitted, as JSON events, or as Debezium's changes, for a consumer.
Events = Literal["json", "debezium"]

#: Starts a job for each of some documents; returns them by job id.
Start = Callable[[Sequence[Path]], dict[str, Path]]

#: Jobs submitted between two updates of the display.
BATCH = 50

#: Seconds without any event after which the demo fails. The tasks of a killed worker are back after a lease,
#: its partitions in Kafka after a session timeout of 45 s.
PATIENCE = 120.0

#: Seconds to wait for the last events and records once all jobs have ended.
TRAILING = 30.0


def demo_environment(services: Services, paths: Sequence[Path], events: Events) -> dict[str, str]:
    """Return the environment of all processes: the user's, without settings of other services.

    The stages may read ``paths``, files or folders, and nothing else. A consumer is loaded for the events
    that need one.
    """
    own = {field.upper() for field in Settings.model_fields}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in own and not name.startswith(("KAFKA_", "AWS_", "DJANGO_"))
    }
    return {
        **inherited,
        **services.environment,
        "TASK_MODULES": "pipeline.demo.documents",
        "SQS_LEASE_SECONDS": "10",
        VARIABLE: variable_of(paths),
        **({"CONSUMER_MODULES": CONSUMER_MODULE} if events == "debezium" else {}),
    }


def run_demo(
    documents: Sequence[Path],
    services: Services,
    children: Children,
    folder: Path,
    console: Console,
    provisioned: Callable[[Settings, Registry], None],
) -> Report:
    """Run the demo in the environment of this process, as ``demo_environment`` returns it.

    ``folder``: for the processes' logs. ``provisioned`` is called once topics, queues and table exist. Raises
    ``PipelineError`` when the jobs do not end.
    """
    settings = load_settings(environment())
    registry = load_stages(settings.task_modules, consumers=settings.consumer_modules)
    list(provision(settings, registry))
    provisioned(settings, registry)
    store = JobStore(settings)
    processes = Processes(children, os.environ, folder, console.print)
    processes.start()
    with closing(Watch(settings)) as watch, Display(console, watch.progress, len(documents)) as display:
        began = time.monotonic()
        with _report_interruption(console, watch.progress, len(documents)):
            with _start_of(settings, registry, store) as start:
                by_job = _submit(start, documents, watch, display)
            _follow(processes, watch, display, len(by_job))
        seconds = time.monotonic() - began
        _drain(watch, display)
    jobs = {job.job_id: job for job in ended_jobs(store, by_job, TRAILING)}
    states = [job.state for job in jobs.values()]
    console.print("Checking the counts with a plain loop over the same files …")
    return Report(
        services=services.name,
        documents=by_job,
        progress=watch.progress,
        jobs_completed=states.count(JobState.COMPLETE),
        jobs_failed=states.count(JobState.FAILED),
        seconds=seconds,
        differences=list(differences(by_job, jobs, watch.progress.jobs)),
    )


@contextmanager
def _report_interruption(console: Console, progress: Progress, documents: int) -> Iterator[None]:
    """Print how far the demo came when Ctrl-C, or SIGTERM, ends it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        left = documents - progress.ended
        done = f"{progress.ended:,} of {documents:,} documents are done"
        console.print(f"Interrupted: {done}, {left:,} are left.")
        raise


@contextmanager
def _start_of(settings: Settings, registry: Registry, store: JobStore) -> Iterator[Start]:
    """Give what starts jobs: a table that a consumer reads if one is loaded, else a submitter."""
    producer = EventProducer(settings, "demo")
    try:
        if registry.topics_of_others:
            yield Table(settings, producer).add
        else:
            yield partial(_submit_batch, Submitter(settings, registry, store, producer, "document-received"))
    finally:
        producer.close(5.0)


def _submit(start: Start, documents: Sequence[Path], watch: Watch, display: Display) -> dict[str, Path]:
    """Start a job for each document; return the documents by job id."""
    by_job: dict[str, Path] = {}
    for begin in range(0, len(documents), BATCH):
        by_job |= start(documents[begin : begin + BATCH])
        watch.look(0)
        display.show()
    return by_job


def _submit_batch(submitter: Submitter, documents: Sequence[Path]) -> dict[str, Path]:
    by_job: dict[str, Path] = {}
    data = [json.dumps({"path": str(path)}, ensure_ascii=False).encode() for path in documents]
    answers = submitter.submit([Submission(data=each) for each in data])
    for path, answer in zip(documents, answers, strict=True):
        if isinstance(answer, PipelineError):
            raise answer
        by_job[answer.job_id] = path
    return by_job


def _follow(processes: Processes, watch: Watch, display: Display, jobs: int) -> None:
    """Wait until all jobs have ended."""
    while watch.progress.ended < jobs:
        watch.look(0.2)
        display.show()
        processes.check()
        if time.monotonic() - watch.progress.moved_at > PATIENCE:
            raise PipelineError(
                f"{jobs - watch.progress.ended} of {jobs} jobs have not ended, and no event came for "
                f"{PATIENCE:g} s.\n{processes.logs()}"
            )


def _drain(watch: Watch, display: Display) -> None:
    """Read until the last event of every complete job has come: it is on another topic."""
    end = time.monotonic() + TRAILING
    while watch.progress.unread and time.monotonic() < end:
        watch.look(0.2)
        display.show()
