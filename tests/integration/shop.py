"""A shop: one service's queues, topics and table, its workers, and what a test reads of them from outside."""

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from pipeline.author.registry import Registry
from pipeline.author.stages import Stage
from pipeline.celery import make_app
from pipeline.control.controlplane import close_control_plane
from pipeline.infra.provision import provision
from pipeline.jobs import Job, JobState, JobStore, NewJob
from pipeline.kafka import ReceivedRecord, newest_records
from pipeline.services.children import Children, children
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from pipeline.sqs import OutgoingMessage, QueueDepth, ReceivedMessage, SqsQueue, sqs_client
from pipeline.wire.events import Event
from pipeline.wire.taskmessage import for_event
from tests.conftest import MakeEnvironment
from tests.integration import workshop, workshop_limits
from tests.processes import PATIENCE, wait_until

STAGES: tuple[Stage[Any, Any], ...] = (
    workshop.make,
    workshop.visit,
    workshop.once,
    workshop.pack,
    workshop_limits.slow,
)
BOTH = "tests.integration.workshop,tests.integration.workshop_limits"
WORKER = (sys.executable, "-m", "celery", "-A", "pipeline", "worker", "--loglevel", "INFO", "-c", "2")


@dataclass
class Shop:
    """One service."""

    environment: dict[str, str]
    settings: Settings
    folder: Path
    children: Children
    app: Celery
    registry: Registry
    workers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    letters: list[ReceivedMessage] = field(default_factory=list)
    #: each job's first message
    sent: dict[str, OutgoingMessage] = field(default_factory=dict)

    # ─── Workers ───

    def start(self, *options: str, **variables: str) -> "subprocess.Popen[bytes]":
        """Start a worker; it is not yet ready."""
        with self.log_file.open("ab") as log:
            worker = self.children.start(
                [*WORKER, "-n", f"w{len(self.workers)}@test", *options],
                environment={**self.environment, **variables},
                output=log,
            )
        self.workers.append(worker)
        return worker

    def stop(self, worker: "subprocess.Popen[bytes]", number: int = signal.SIGTERM) -> int:
        """Signal the worker itself and wait for its end; its exit code."""
        worker.send_signal(number)
        try:
            return worker.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker does not end:\n{self.log()[-8000:]}") from None
        finally:
            self.children.end(worker)

    def kill(self, worker: "subprocess.Popen[bytes]") -> None:
        """kill -9, the worker and its children at once."""
        self.children.end(worker)

    @property
    def log_file(self) -> Path:
        return self.folder / "worker.log"

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    # ─── Work ───

    def submit(
        self, stage: Stage[Any, Any], data: object, *, entity: str | None = None, late: float = 0
    ) -> str:
        """Open a job for one event and send the task that it makes; the job's id."""
        (job_id,) = self.submit_many(stage, [data], entity=entity, late=late)
        return job_id

    def submit_many(
        self, stage: Stage[Any, Any], data: Sequence[Any], *, entity: str | None = None, late: float = 0
    ) -> list[str]:
        """The same for many, in order."""
        plan, now = self.registry.plan(stage.consumes), time.time() - late
        messages, job_ids = [], []
        for each in data:
            job_id = f"job-{uuid.uuid4().hex[:12]}"
            job_ids.append(job_id)
            event = Event(
                id=uuid.uuid4().hex,
                source="test",
                type="test",
                time=datetime.now(UTC),
                entity_id=entity or job_id,
                data=each.model_dump_json().encode(),
                job_id=job_id,
            )
            messages.append(
                OutgoingMessage(**for_event(stage, event, job_id=job_id, submitted_at=now).to_sqs())
            )
        self.store.records.open(
            [
                NewJob(job_id=job_id, entity_id="e", topic=stage.consumes, plan=plan, submitted_at=now)
                for job_id in job_ids
            ]
        )
        self.sent |= zip(job_ids, messages, strict=True)
        # Of an ordered stage, too: a worker must not have the first of a group before the next is there.
        assert self.queue.send(messages) == [None] * len(messages)
        return job_ids

    def send_again(self, job_id: str) -> None:
        """Send a job's first message once more, as a replay after SQS forgot it."""
        message = self.sent[job_id]
        again = replace(message, deduplication_id=uuid.uuid4().hex)
        assert self.queue.send([again]) == [None]

    def send_raw(self, body: str) -> str:
        """Put any text in the queue; the id of its message."""
        answer = sqs_client(self.settings).send_message(
            QueueUrl=self.queue.url,
            MessageBody=body,
            MessageGroupId=uuid.uuid4().hex,
            MessageDeduplicationId=uuid.uuid4().hex,
        )
        return answer["MessageId"]

    def wait_cancelled(self, job_id: str) -> None:
        """Wait until what runs stages here has read that a job is cancelled."""

        def is_known() -> bool:
            return any("cancelled_jobs.known" in line and job_id in line for line in self.log().splitlines())

        self.wait(is_known, f"job {job_id} is known to be cancelled")

    def let_go(self, *keys: str) -> None:
        """Let held runs go on."""
        for key in keys:
            gate = Path(f"{self.environment['WORKSHOP_LOG']}.{key}")
            gate.parent.mkdir(exist_ok=True)  # of a part, whose key has a slash
            gate.touch()

    def purge(self) -> None:
        """Throw away all that the queue holds."""
        sqs_client(self.settings).purge_queue(QueueUrl=self.queue.url)

    def delete_queue(self) -> None:
        """Take the task queue away."""
        sqs_client(self.settings).delete_queue(QueueUrl=self.queue.url)

    def delay(self, name: str, *args: object, **options: Any) -> str:
        """Publish a plain task as a Celery client does; its id."""
        result = self.signature(name, *args).apply_async(**options)
        return str(result.id)

    def signature(self, name: str, *args: object) -> Any:
        """Return a plain task of the workshop."""
        return self.app.signature(f"tests.integration.workshop.{name}", args=args)

    # ─── What can be seen ───

    @property
    def store(self) -> JobStore:
        store: JobStore = self.app.pipeline.job_store
        return store

    @property
    def queue(self) -> SqsQueue:
        return SqsQueue(sqs_client(self.settings), self.settings.sqs_task_queue_url)

    def lines(self, key: str, what: str | None = None) -> list[dict[str, Any]]:
        """Return the lines that runs under ``key`` wrote, in order."""
        return [line for line in self.all_lines() if line["key"] == key and what in (None, line["what"])]

    def all_lines(self) -> list[dict[str, Any]]:
        path = Path(self.environment["WORKSHOP_LOG"])
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        # The last may be half written.
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_line(
        self, key: str, what: str, count: int = 1, timeout: float = PATIENCE
    ) -> list[dict[str, Any]]:
        """Wait until so many such lines are there; them."""
        self.wait(lambda: len(self.lines(key, what)) >= count, f"{count} x {what} of {key}", timeout)
        return self.lines(key, what)

    def job(self, job_id: str) -> Job:
        job = self.store.records.get(job_id)
        assert job is not None
        return job

    def wait_job(self, job_id: str, state: JobState = JobState.COMPLETE, timeout: float = PATIENCE) -> Job:
        """Wait until the job is in that state."""
        self.wait(lambda: self.job(job_id).state is state, f"{job_id} is {state}", timeout)
        return self.job(job_id)

    def wait_empty(self, timeout: float = PATIENCE) -> None:
        """Wait until the queue holds nothing at all."""
        self.wait(
            lambda: self.queue.depth() == QueueDepth(available=0, in_flight=0, delayed=0), "empty", timeout
        )

    def wait_letter(self, text: str, timeout: float = PATIENCE) -> ReceivedMessage:
        """Wait for the dead letter that has ``text`` in its body or deduplication id."""
        queue = SqsQueue(sqs_client(self.settings), self.settings.sqs_dlq_url)

        def found() -> list[ReceivedMessage]:
            new = queue.receive(wait_seconds=0, visibility_seconds=600)
            queue.delete([message.receipt_handle for message in new])
            self.letters += new
            return [letter for letter in self.letters if text in letter.body + letter.deduplication_id]

        self.wait(found, f"dead letter with {text}", timeout)
        (letter,) = found()
        return letter

    def events(self, topic: str) -> list[tuple[ReceivedRecord, Any]]:
        """The events of a logical topic with their data, oldest first."""
        found = newest_records(self.settings, self.settings.topic(topic), 10_000, PATIENCE)
        return [(message, json.loads(message.value or b"null")) for message in found]

    def wait(self, condition: Any, what: str, timeout: float = PATIENCE) -> None:
        try:
            wait_until(condition, what, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-8000:]}") from None


@contextmanager
def open_shop(
    services: Services,
    make_environment: MakeEnvironment,
    folder: Path,
    stages: Sequence[Stage[Any, Any]] = STAGES,
    /,
    **variables: str,
) -> Iterator[Shop]:
    """A shop without workers; whatever it starts is ended after the block."""
    environment = make_environment(
        services,
        **{
            "TASK_MODULES": BOTH,
            "WORKSHOP_LOG": str(folder / "lines"),
            "MAX_RETRIES": "2",
            "RETRY_DELAY": "0.3",
            "SQS_LEASE_SECONDS": "4",
            "TASK_TIME_LIMIT": "60",
            "CONTROL_COMMANDS": "revoke",
            **variables,
        },
    )
    with pytest.MonkeyPatch.context() as patch, children() as started:
        for name, value in environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        settings, registry = load_settings(environment), _registry(stages)
        list(provision(settings, registry))
        yield Shop(environment, settings, folder, started, _client(settings), registry)
        close_control_plane()


def _registry(stages: Sequence[Stage[Any, Any]]) -> Registry:
    registry = Registry()
    for stage in stages:
        registry.add(stage)
    return registry


def _client(settings: Settings) -> Celery:
    """An app of this process that publishes; it knows no tasks."""
    return make_app(settings)
