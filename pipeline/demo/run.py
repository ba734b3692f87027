"""The demonstration itself: provision, start, submit, watch, verify."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from rich.console import Console

from config.settings import Settings, load_settings
from config.vault import environment
from pipeline.demo.display import Display
from pipeline.demo.processes import Processes
from pipeline.demo.progress import Watch
from pipeline.demo.report import Report
from pipeline.demo.verify import differences
from pipeline.errors import PipelineError
from pipeline.jobs import JobState, JobStore
from pipeline.kafka import EventProducer
from pipeline.provision import provision
from pipeline.registry import Registry
from pipeline.services.children import Children
from pipeline.services.environment import Services
from pipeline.submission import Submission, Submitter
from pipeline.taskmodules import load_stages
from pipeline.waiting import ended_jobs

#: Jobs submitted between two looks at what came of them.
BATCH = 50

#: Seconds without any event after which the demonstration gives up. A worker that was killed gives its
#: tasks back after a lease, and Kafka its partitions after a session's timeout of 45 s.
PATIENCE = 120.0

#: Seconds for the last events and records to appear, once all jobs are said to have ended.
TRAILING = 30.0


def demo_environment(services: Services) -> dict[str, str]:
    """The environment of all processes: the user's, less what would point this project elsewhere."""
    own = {field.upper() for field in Settings.model_fields}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in own and not name.startswith(("KAFKA_", "AWS_"))
    }
    return {**inherited, **services.environment, "TASK_MODULES": "tasks", "SQS_LEASE_SECONDS": "10"}


def run_demo(
    documents: Sequence[Path],
    services: Services,
    children: Children,
    folder: Path,
    console: Console,
    provisioned: Callable[[Settings, Registry], None],
) -> Report:
    """Run all of it in the environment of this process, as ``demo_environment`` gives it.

    ``folder`` takes the processes' logs; ``provisioned`` is called once topics, queues and table are there.
    Raises ``PipelineError`` when it cannot come to an end.
    """
    settings = load_settings(environment())
    registry = load_stages(settings.task_modules)
    list(provision(settings, registry))
    provisioned(settings, registry)
    store = JobStore(settings)
    processes = Processes(children, os.environ, folder, console.print)
    processes.start()
    with closing(Watch(settings)) as watch, Display(console, watch.progress, len(documents)) as display:
        began = time.monotonic()
        with _submitter(settings, registry, store) as submitter:
            by_job = _submit(submitter, documents, watch, display)
        _follow(processes, watch, display, len(by_job))
        seconds = time.monotonic() - began
        _drain(watch, display)
    jobs = {job.job_id: job for job in ended_jobs(store, by_job, TRAILING)}
    states = [job.state for job in jobs.values()]
    console.print("Checking against a plain loop over the same files …")
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
def _submitter(settings: Settings, registry: Registry, store: JobStore) -> Iterator[Submitter]:
    producer = EventProducer(settings, "demo")
    try:
        yield Submitter(settings, registry, store, producer, "document-received")
    finally:
        producer.close(5.0)


def _submit(
    submitter: Submitter, documents: Sequence[Path], watch: Watch, display: Display
) -> dict[str, Path]:
    """Submit a job for each document; the documents by job id."""
    by_job: dict[str, Path] = {}
    for begin in range(0, len(documents), BATCH):
        batch = documents[begin : begin + BATCH]
        data = [json.dumps({"path": str(path)}, ensure_ascii=False).encode() for path in batch]
        for path, answer in zip(
            batch, submitter.submit([Submission(data=each) for each in data]), strict=True
        ):
            if isinstance(answer, PipelineError):
                raise answer
            by_job[answer.job_id] = path
        watch.look(0)
        display.show()
    return by_job


def _follow(processes: Processes, watch: Watch, display: Display, jobs: int) -> None:
    """Watch until all jobs have ended."""
    while watch.progress.ended < jobs:
        watch.look(0.2)
        display.show()
        processes.check()
        if time.monotonic() - watch.progress.moved_at > PATIENCE:
            raise PipelineError(
                f"{jobs - watch.progress.ended} of {jobs} jobs have not ended, and nothing has happened for "
                f"{PATIENCE:g} s.\n{processes.logs()}"
            )


def _drain(watch: Watch, display: Display) -> None:
    """Read on until every complete job's last event is here: it is on another topic."""
    end = time.monotonic() + TRAILING
    while watch.progress.unread and time.monotonic() < end:
        watch.look(0.2)
        display.show()
