"""``pipeline dlq`` and ``pipeline jobs sweep`` on real services: nothing is lost, hidden or done twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.author.loading import load_stages
from pipeline.author.registry import Registry
from pipeline.author.stages import Stage
from pipeline.cli import main
from pipeline.deadletters import JobSweep
from pipeline.deadletters.examination import Examination
from pipeline.deadletters.periodicsweep import periodic_sweep
from pipeline.deadletters.queuescan import QueueScan
from pipeline.deadletters.traffic import Traffic, read_traffic
from pipeline.errors import ServiceUnavailableError
from pipeline.infra.provision import provision
from pipeline.jobs import (
    JobState,
    JobStore,
    NewJob,
    PartDone,
    PartRef,
    Pass,
    Recorded,
    SplitRef,
    StageDone,
    StageRef,
)
from pipeline.kafka import EventProducer, OutgoingRecord, ReceivedRecord, scan
from pipeline.ledger import Dispatch, Ledger
from pipeline.patience import Patience
from pipeline.services.environment import Services
from pipeline.settings import (
    DLQ_TOPIC,
    ERRORS_TOPIC,
    Settings,
    load_settings,
)
from pipeline.sqs import OutgoingMessage, QueueDepth, ReceivedMessage, SqsQueue, sqs_client
from pipeline.sqs.queues import make_queue
from pipeline.telemetry import metrics
from pipeline.wire import identity, taskmessage
from pipeline.wire.deadletter import DLQ_HEADERS
from pipeline.wire.events import (
    Coordinates,
    Event,
    decode,
    encode,
    source_of,
)
from pipeline.wire.failure import Failure, origin_of
from pipeline.wire.taskmessage import TaskHeader, first_at_of, generation_of
from pipeline.worker.settle.chords import Chords
from pipeline.worker.settle.deadletter import DeadLetters
from pipeline.worker.settle.outgoingletter import OutgoingLetter
from tests.conftest import MakeEnvironment
from tests.integration import mending
from tests.processes import PATIENCE, wait_until

pytestmark = pytest.mark.one_set

MODULE = "tests.integration.mending"
#: The trace of every event here.
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@dataclass
class World:
    """A provisioned service, and what a worker would do in it."""

    environment: dict[str, str]
    settings: Settings
    producer: EventProducer

    @property
    def store(self) -> JobStore:
        return JobStore(self.settings)

    @property
    def tasks(self) -> SqsQueue:
        return SqsQueue(sqs_client(self.settings), self.settings.sqs_task_queue_url)

    @property
    def dlq(self) -> SqsQueue:
        return SqsQueue(sqs_client(self.settings), self.settings.sqs_dlq_url)

    def run(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, arguments, env=self.environment)
        assert result.exit_code == code, result.output
        return result

    def listed(self, *filters: str) -> list[dict[str, Any]]:
        result = self.run("dlq", "list", "--json", *filters)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def swept(self) -> list[tuple[str, str | None]]:
        """Kind and job of each finding."""
        result = CliRunner().invoke(main, ["jobs", "sweep", "--idle", "0s", "--json"], env=self.environment)
        assert result.exit_code in (0, 1), result.output
        found = [json.loads(line) for line in result.stdout.splitlines()]
        return [(each["kind"], each["job_id"]) for each in found]

    def open(self, stage: Stage[Any, Any], job_id: str) -> NewJob:
        registry = load_stages((MODULE,))
        job = NewJob(
            job_id=job_id,
            entity_id=job_id,
            topic=stage.consumes,
            plan=registry.plan(stage.consumes),
            submitted_at=time.time() - 1,
        )
        self.store.records.open([job])
        return job

    def send(self, stage: Stage[Any, Any], data: object, entity: str | None = None) -> str:
        """Open a job and send its first task; the job's id."""
        job_id = f"job-{uuid.uuid4().hex[:12]}"
        job = self.open(stage, job_id)
        event = Event(
            id=uuid.uuid4().hex,
            source="test",
            type=stage.consumes,
            time=datetime.now(UTC),
            entity_id=entity or job_id,
            data=json.dumps(data).encode(),
            job_id=job_id,
            traceparent=TRACE,
            coordinates=Coordinates(topic=stage.consumes, partition=1, offset=7, timestamp_ms=1),
        )
        task = taskmessage.for_event(stage, event, job_id, job.submitted_at)
        assert self.tasks.send([OutgoingMessage(**task.to_sqs())]) == [None]
        return job_id

    def take(self, queue: SqsQueue | None = None) -> ReceivedMessage:
        """Receive the next task."""
        (message,) = (queue or self.tasks).receive(1, wait_seconds=1, visibility_seconds=60)
        return message

    def give_up(self, stage: Stage[Any, Any], data: object = "x", entity: str | None = None) -> str:
        """A task that a worker gives up on; its job's id."""
        job_id = self.send(stage, data, entity)
        self.bury(self.take())
        return job_id

    def bury(self, message: ReceivedMessage, error: str = "builtins.ValueError") -> None:
        payload = json.loads(message.body)
        header = TaskHeader.read(payload["headers"])
        failure = Failure(
            **origin_of(header),
            task_id=payload["headers"]["id"],
            attempts=1,
            error=error,
            reason="as asked",
            traceback="Traceback: here",
            worker="w@test",
            generation=generation_of(message.attributes),
            first_at=first_at_of(message.attributes) or message.sent_at,
            failed_at=time.time(),
            queue=self.settings.task_queue,
            group_id=message.group_id,
        )
        letter = OutgoingLetter(message=message, failure=failure, header=header, headers=payload["headers"])
        self.dead_letters().dead_letter_messages([letter])
        assert self.tasks.delete([message.receipt_handle]) == [None]

    def dead_letters(self) -> DeadLetters:
        patience = Patience()
        dispatch = Dispatch(self.settings, load_stages((MODULE,)), lambda _: self.tasks, patience)
        ledger = Ledger(self.settings, self.store, self.producer, patience, dispatch)
        return DeadLetters(self.settings, ledger, Chords(self.store.chords, patience), patience)

    def state(self, job_id: str) -> JobState:
        job = self.store.records.get(job_id)
        assert job is not None
        return job.state

    def records(self, topic: str) -> list[ReceivedRecord]:
        return list(scan(self.settings, self.settings.topic(topic)))


@pytest.fixture
def world(
    services: Services, make_environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    environment = make_environment(services, TASK_MODULES=MODULE)
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    settings = load_settings(environment)
    list(provision(settings, load_stages((MODULE,))))
    # The emulators answer a receive from all they have, without waiting.
    monkeypatch.setattr("pipeline.deadletters.queuescan.WAIT", 0)
    producer = EventProducer(settings, "test")
    yield World(environment, settings, producer)
    producer.close(5)


EMPTY = QueueDepth(available=0, in_flight=0, delayed=0)


# ─── Looking ───


def test_all_dead_letters_are_listed_and_all_stay(world: World) -> None:
    """More than one answer of SQS holds, two of one entity among them; then each is there to be received."""
    jobs = {world.give_up(mending.mend, f"x{n}") for n in range(21)}
    jobs |= {world.give_up(mending.serve, "y", entity="ada") for _ in range(2)}
    for _ in range(2):
        assert {letter["job_id"] for letter in world.listed()} == jobs
    depth = world.dlq.depth()
    assert (depth.available, depth.in_flight) == (23, 0)


def test_looking_never_raises_the_receive_count_of_a_live_message(world: World) -> None:
    """No command of dlq receives from the live queue: its next receive is the first."""
    world.give_up(mending.mend)
    world.send(mending.mend, "live")
    world.listed()
    world.run("dlq", "export")
    world.run("dlq", "redrive", "--all", "--dry-run")
    assert world.take().receive_count == 1


def test_a_dead_letter_is_shown_with_all_that_is_known(world: World) -> None:
    """Data, headers, why, who, when and where from: as JSON and for a person."""
    job_id = world.give_up(mending.mend, "vase", entity="ada")
    (listed,) = world.listed()
    shown = json.loads(world.run("dlq", "show", listed["id"], "--json").stdout)
    expected = {
        "place": "sqs",
        "job_id": job_id,
        "stage": "mend",
        "part": "run",
        "entity_id": "ada",
        "attempts": 1,
        "error": "builtins.ValueError",
        "reason": "as asked",
        "traceback": "Traceback: here",
        "worker": "w@test",
        "source": world.settings.task_queue,
        "topic": "broken",
        "partition": 1,
        "offset": 7,
        "data": '"vase"',
    }
    assert {name: shown[name] for name in expected} == expected
    assert shown["headers"]["pipeline"]["job_id"] == job_id
    assert shown["first_at"] <= shown["failed_at"] <= time.time() + 1
    text = world.run("dlq", "show", listed["id"]).stdout
    assert all(word in text for word in (job_id, "as asked", "Traceback: here", '"vase"'))
    assert world.run("dlq", "show", listed["task_id"]).stdout == text
    assert "There is no dead letter 'nobody'" in world.run("dlq", "show", "nobody", code=2).stderr
    nobody = world.run("dlq", "redrive", listed["task_id"], "nobody", "--dry-run", code=2).stderr
    assert "There is no dead letter nobody," in nobody


def test_what_is_told_of_a_failure_belongs_to_its_trace(world: World) -> None:
    """The task's error event and that of its job: both are found with what failed."""
    world.give_up(mending.mend)
    told = [dict(message.headers) for message in world.records(ERRORS_TOPIC)]
    assert [(each["ce_type"], each["traceparent"]) for each in told] == [
        (b"task-failed", TRACE.encode()),
        (b"job-failed", TRACE.encode()),
    ]


def test_filters_say_which(world: World) -> None:
    """By stage, job, exception and age."""
    one = world.give_up(mending.mend)
    two = world.give_up(mending.serve)
    assert [letter["job_id"] for letter in world.listed("--stage", "serve")] == [two]
    assert [letter["job_id"] for letter in world.listed("--job", one)] == [one]
    assert len(world.listed("--exception", "Value*")) == 2
    assert world.listed("--exception", "KeyError") == []
    assert world.listed("--older-than", "1h") == []
    assert len(world.listed("--newer-than", "1h")) == 2


def test_export_writes_everything(world: World, tmp_path: Any) -> None:
    """One object a line, with data and headers; all stays where it is."""
    world.give_up(mending.mend)
    file = tmp_path / "letters.jsonl"
    world.run("dlq", "export", "--output", str(file))
    (line,) = file.read_text().splitlines()
    assert json.loads(line)["data"] == '"x"'
    assert len(world.listed()) == 1


HOSTILE = {
    "no JSON": ("hello", "not JSON"),
    "JSON of something else": ('{"order": 1}', "not a Celery message"),
    "too deep": ("[" * 10_000, "not JSON"),
    "control characters of a terminal": ('"\x7f[2J"', "not a Celery message"),
}


def test_hostile_messages_are_listed_with_their_reason(world: World) -> None:
    """An unreadable message that SQS moved is listed, and after the sweep with its reason."""
    for number, (body, _) in enumerate(HOSTILE.values()):
        sent = OutgoingMessage(body=body, group_id=f"g{number}", deduplication_id=f"d{number}")
        assert world.dlq.send([sent]) == [None]
    reasons = [reason for _, reason in HOSTILE.values()]
    for explained in (False, True):
        found = sorted(letter["reason"] for letter in world.listed())
        assert len(found) == len(reasons)
        assert all(any(reason in each for each in found) for reason in reasons)
        assert {letter["error"] == "Unexplained" for letter in world.listed()} == {not explained}
        assert world.run("dlq", "list").stdout.count("\n") == len(HOSTILE) + 1
        world.swept()
    told = [json.loads(message.value or b"") for message in world.records(ERRORS_TOPIC)]
    assert sorted(each["data"] for each in told) == sorted(body for body, _ in HOSTILE.values())


def test_names_that_others_wrote_do_not_steer_the_terminal(world: World) -> None:
    """A task's name may be anything: no control character of it is printed, and it is no markup."""
    name = "[/red]\x1b[2J"
    payload = {"body": "[[], {}, {}]", "headers": {"id": "t", "task": name}, "properties": {}}
    sent = OutgoingMessage(body=json.dumps(payload), group_id="g", deduplication_id="d")
    assert world.dlq.send([sent]) == [None]
    commands = (["list"], ["show", "t"], ["redrive", "--all", "--dry-run"])
    for command in commands:
        result = world.run("dlq", *command)
        assert "\x1b" not in result.output
        assert "[/red]" in result.output


# ─── Redrive ───


def test_a_redriven_task_goes_back_and_its_job_runs(world: World) -> None:
    """The same body in its group, counted on; the dead letter gone; failing anew is a new failure."""
    job_id = world.send(mending.mend, "vase")
    first = world.take()
    world.bury(first)
    assert world.state(job_id) is JobState.FAILED
    assert "1 redriven" in world.run("dlq", "redrive", "--job", job_id, "--yes").stderr
    assert (world.listed(), world.state(job_id)) == ([], JobState.RUNNING)
    again = world.take()
    assert (again.body, again.group_id) == (first.body, first.group_id)
    assert again.attributes["generation"] == "1"
    assert float(again.attributes["first_at"]) == pytest.approx(first.sent_at, abs=0.01)
    world.bury(again)
    assert world.state(job_id) is JobState.FAILED
    (letter,) = world.listed()
    assert letter["generation"] == 1
    world.run("dlq", "redrive", letter["id"], "--yes")
    assert world.take().attributes["generation"] == "2"


def test_a_dry_run_changes_nothing(world: World) -> None:
    """It says what would be redriven."""
    job_id = world.give_up(mending.mend)
    assert "mend  builtins.ValueError" in world.run("dlq", "redrive", "--all", "--dry-run").stderr
    assert (len(world.listed()), world.state(job_id)) == (1, JobState.FAILED)
    assert world.tasks.depth() == EMPTY


def test_a_redrive_asks_and_says_which(world: World) -> None:
    """Without a choice, or nobody to ask, nothing happens."""
    world.give_up(mending.mend)
    assert "Select dead letters" in world.run("dlq", "redrive", code=2).stderr
    assert "--yes" in world.run("dlq", "redrive", "--all", code=2).stderr
    assert "--all selects every" in world.run("dlq", "redrive", "--all", "--stage", "mend", code=2).stderr
    world.run("dlq", "redrive", str(uuid.uuid4()), "--yes", code=2)
    assert len(world.listed()) == 1


@pytest.mark.parametrize("step", ["send", "delete"])
def test_a_redrive_may_be_interrupted_and_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Cut off after its job took it as running, or after it was sent: repeated, one task is on its way."""
    job_id = world.give_up(mending.mend)
    with monkeypatch.context() as patch:
        if step == "send":
            patch.setattr("pipeline.deadletters.redrive.Redriver._send_tasks", _raising(KeyboardInterrupt))
        else:
            patch.setattr(QueueScan, "delete", _raising(KeyboardInterrupt))
        world.run("dlq", "redrive", "--all", "--yes", code=130)
    assert [letter["job_id"] for letter in world.listed()] == [job_id]
    world.run("dlq", "redrive", "--all", "--yes")
    assert world.listed() == []
    assert world.state(job_id) is JobState.RUNNING
    assert world.take().attributes["generation"] == "1"
    assert world.tasks.receive(1, wait_seconds=1, visibility_seconds=0) == []


def test_ctrl_c_in_the_middle_of_a_redrive_loses_nothing(world: World) -> None:
    """A real process: exit code 130, it says how far it came; the others are there, and it goes on again."""
    jobs = {world.give_up(mending.mend, f"x{n}") for n in range(20)}
    pipeline = str(Path(sys.executable).with_name("pipeline"))
    command = [pipeline, "dlq", "redrive", "--all", "--yes", "--rate", "1", "--json"]
    with subprocess.Popen(
        command,
        env={**os.environ, **world.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            first = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            told = [json.loads(line) for line in (first, *process.stdout)]
            said = process.stderr.read()
            assert process.wait(PATIENCE) == 130, said
        finally:
            process.kill()
    assert f"{len(told)} redriven" in said
    assert "Run the same command again" in said
    assert "Traceback" not in said
    # It may have redriven one more, which it could not say.
    assert 0 <= len(jobs) - len(told) - len(world.listed()) <= 1
    assert world.listed()
    world.run("dlq", "redrive", "--all", "--yes")
    assert world.listed() == []
    assert sorted(_drained_jobs(world)) == sorted(jobs)


def _drained_jobs(world: World) -> list[str]:
    """The jobs of all tasks on the queue, each as often as it is there."""
    found: list[str] = []
    while messages := world.tasks.receive(10, wait_seconds=0, visibility_seconds=60):
        found += [json.loads(message.body)["headers"]["pipeline"]["job_id"] for message in messages]
    return found


def test_of_a_task_that_failed_twice_under_one_id_one_dead_letter_is_redriven(world: World) -> None:
    """A replay's copy of it failed, too: its dead letter is kept, and goes with the other's redrive."""
    job_id = world.send(mending.mend, "vase")
    first = world.take()
    world.bury(first)
    copy = OutgoingMessage(body=first.body, group_id=first.group_id, deduplication_id="copy")
    assert world.tasks.send([copy]) == [None]
    world.bury(world.take())
    assert len(world.listed()) == 2
    assert "1 redriven, 1 removed" in world.run("dlq", "redrive", "--job", job_id, "--yes").stderr
    assert (world.listed(), world.state(job_id)) == ([], JobState.RUNNING)
    assert _drained_jobs(world) == [job_id]


# ─── What the errors topic tells ───


def test_a_task_whose_dead_letter_sqs_dropped_is_redriven_from_the_errors_topic(world: World) -> None:
    """Asked for, it is listed, shown and sent as it was; the last failure counts, and what is done stays."""
    job_id = world.send(mending.mend, "vase", entity="ada")
    first = world.take()
    world.bury(first)
    world.run("dlq", "redrive", "--job", job_id, "--yes")
    world.bury(world.take())
    world.dlq.purge()
    assert world.listed() == []
    (letter,) = world.listed("--only", "errors", "--job", job_id)
    assert (letter["place"], letter["generation"], letter["error"]) == ("errors", 1, "builtins.ValueError")
    shown = json.loads(world.run("dlq", "show", letter["id"], "--json").stdout)
    assert (shown["data"], shown["entity_id"], shown["traceback"]) == ('"vase"', "ada", "Traceback: here")
    assert "cannot be purged" in world.run("dlq", "purge", "--only", "errors", code=2).stderr
    assert "1 redriven" in world.run("dlq", "redrive", letter["id"], "--yes").stderr
    assert world.state(job_id) is JobState.RUNNING
    again = world.take()
    assert (again.body, again.group_id) == (first.body, first.group_id)
    assert again.attributes["generation"] == "2"
    done = StageDone(
        ref=StageRef(job_id=job_id, stage="mend"),
        task_id=json.loads(again.body)["headers"]["id"],
        ends_path=False,
        run_seconds=0.1,
        finished_at=time.time(),
        worker="w",
    )
    world.store.tasks.record([done])
    assert (
        "1 already done" in world.run("dlq", "redrive", "--only", "errors", "--job", job_id, "--yes").stderr
    )
    assert world.tasks.depth().available == 0


def test_a_redrive_from_the_errors_topic_may_be_interrupted_and_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job's record proves the failure until the task is sent, also after the job took it as running."""
    job_id = world.give_up(mending.mend)
    world.dlq.purge()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.deadletters.redrive.Redriver._send_tasks", _raising(KeyboardInterrupt))
        world.run("dlq", "redrive", "--only", "errors", "--job", job_id, "--yes", code=130)
    assert list(world.store.listing.failures(job_id)) == []
    world.run("dlq", "redrive", "--only", "errors", "--job", job_id, "--yes")
    assert world.take().attributes["generation"] == "1"


def test_a_failure_that_a_neighbour_made_up_is_not_redriven(world: World) -> None:
    """It has the ids of a true one, and other data, or another queue; the true one is redriven."""
    job_id = world.give_up(mending.mend)
    world.dlq.purge()
    other = world.settings.queue_url(f"other-{uuid.uuid4().hex[:8]}.fifo")
    make_queue(sqs_client(world.settings), other, {"ContentBasedDeduplication": "false"})
    topic = world.settings.topic(ERRORS_TOPIC)
    true = next(
        event
        for record in world.records(ERRORS_TOPIC)
        if (event := json.loads(record.value or b""))["job_id"] == job_id and event["kind"] == "task"
    )
    later = {"failed_at": true["failed_at"] + 1}
    forged = [
        {**true, **later, "data": true["data"].replace("x", "FORGED")},
        {**true, **later, "queue": other.rsplit("/", 1)[1]},
    ]
    records = [OutgoingRecord(topic=topic, key=b"k", value=json.dumps(each).encode()) for each in forged]
    assert world.producer.emit(records, 10) == [None, None]
    said = world.run("dlq", "redrive", "--only", "errors", "--job", job_id, "--yes", code=1).stderr
    assert said.count("its job has not recorded this failure") == 2
    assert "1 redriven" in said
    assert "FORGED" not in world.take().body
    assert world.tasks.receive(1, wait_seconds=1, visibility_seconds=0) == []
    assert SqsQueue(sqs_client(world.settings), other).depth() == EMPTY


def test_a_dead_letter_goes_to_no_queue_of_another_service(world: World) -> None:
    """SQS moves a message with the attributes that its sender gave it; it stays where it is."""
    other = world.settings.queue_url(f"other-{uuid.uuid4().hex[:8]}.fifo")
    make_queue(sqs_client(world.settings), other, {"ContentBasedDeduplication": "false"})
    body = json.dumps({"body": '[["x"],{},{}]', "headers": {"id": "i", "task": "note"}, "properties": {}})
    letter = OutgoingMessage(
        body=body,
        group_id="g",
        deduplication_id=uuid.uuid4().hex,
        attributes={"source_queue": other.rsplit("/", 1)[1], "reason": "r", "error": "E", "group": "i"},
    )
    assert world.dlq.send([letter]) == [None]
    said = world.run("dlq", "redrive", "--all", "--yes", code=1).stderr
    assert "is none of this service: SQS queue other-" in said
    assert len(world.listed()) == 1
    assert SqsQueue(sqs_client(world.settings), other).depth() == EMPTY


def test_what_the_errors_topic_has_only_a_part_of_is_not_redriven(world: World) -> None:
    """Nor what belongs to no job, for nothing tells if it was redriven. Other services' are not shown."""
    service = world.settings.service_name
    told = {"kind": "task", "service": service, "error": "E", "message": "m", "failed_at": time.time()}
    values = [
        {**told, "task_id": "t-1", "data": "[", "cut": True},
        {**told, "task_id": "t-2", "data": "no task"},
        {**told, "kind": "job", "job_id": "j"},
        # Services may share the topic.
        {**told, "service": "another", "task_id": "t-3", "data": "no task"},
    ]
    topic = world.settings.topic(ERRORS_TOPIC)
    records = [
        OutgoingRecord(topic=topic, key=b"k", value=json.dumps(value).encode(), headers=())
        for value in values
    ]
    assert (
        world.producer.emit([*records, OutgoingRecord(topic=topic, key=b"k", value=b"{", headers=())], 10)
        == [None] * 5
    )
    said = world.run("dlq", "redrive", "--only", "errors", "--yes", code=1).stderr
    assert "only a part of its data" in said
    assert "belongs to no job" in said
    assert "2 failed" in said
    assert world.tasks.depth() == EMPTY


def test_what_could_not_be_sent_stays_a_dead_letter(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, the exit code tells, and the next redrive takes it."""
    world.give_up(mending.mend)
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipeline.deadletters.redrive.Redriver._send_tasks",
            lambda _, letters: [ServiceUnavailableError("away")] * len(letters),
        )
        assert "failed: away" in world.run("dlq", "redrive", "--all", "--yes", code=1).stderr
    world.run("dlq", "redrive", "--all", "--yes")
    assert world.take().attributes["generation"] == "1"


def test_the_dead_letter_of_a_task_that_is_done_is_only_removed(world: World) -> None:
    """A copy of it succeeded meanwhile: nothing is run again."""
    job_id = world.give_up(mending.mend)
    (letter,) = world.listed()
    done = StageDone(
        ref=StageRef(job_id=job_id, stage="mend"),
        task_id=letter["task_id"],
        ends_path=False,
        run_seconds=0.1,
        finished_at=time.time(),
        worker="w",
    )
    world.store.tasks.record([done])
    assert "1 removed" in world.run("dlq", "redrive", "--all", "--yes").stderr
    assert (world.listed(), world.tasks.depth()) == ([], EMPTY)


def test_an_ordered_stage_is_redriven_only_when_that_is_said(world: World) -> None:
    """Later tasks of its entity have run: it stays, and the option redrives it, oldest first."""
    world.give_up(mending.serve, 1, entity="ada")
    world.give_up(mending.serve, 2, entity="ada")
    assert "--out-of-order" in world.run("dlq", "redrive", "--all", "--yes", code=1).stderr
    assert len(world.listed()) == 2
    world.run("dlq", "redrive", "--all", "--yes", "--out-of-order")
    found = world.tasks.receive(10, wait_seconds=1, visibility_seconds=60)
    assert {message.group_id for message in found} == {"ada"}
    assert [taskmessage.data_of(json.loads(message.body)["body"]) for message in found] == ["1", "2"]


def test_a_rate_holds(world: World) -> None:
    """Three at two a second take a second at least."""
    for _ in range(3):
        world.give_up(mending.mend)
    started = time.monotonic()
    world.run("dlq", "redrive", "--all", "--yes", "--rate", "2")
    assert time.monotonic() - started >= 1
    assert world.listed() == []


# ─── Purge ───


def test_a_purge_asks_for_the_queues_name(world: World) -> None:
    """Without it, or with another, nothing is removed."""
    world.give_up(mending.mend)
    name = world.dlq.name
    assert "--name" in world.run("dlq", "purge", code=2).stderr
    assert name in world.run("dlq", "purge", "--name", world.tasks.name, code=1).stderr
    assert len(world.listed()) == 1
    world.give_up(mending.serve)
    world.run("dlq", "purge", "--name", name, "--stage", "serve")
    assert [letter["stage"] for letter in world.listed()] == ["mend"]
    assert "1 removed" in world.run("dlq", "purge", "--name", name).stderr
    assert world.dlq.depth() == EMPTY


# ─── Events ───


def rejected(world: World, source: OutgoingRecord, **changes: object) -> None:
    """Put an event on the DLQ topic as the bridge does."""
    added: dict[str, object] = dict(
        zip(DLQ_HEADERS, (source.topic, 2, 40, 1_700_000_000_000, "TooBad", "as asked", ""), strict=True)
    )
    headers = tuple((name, str(value).encode()) for name, value in (added | changes).items())
    record = OutgoingRecord(
        topic=world.settings.topic(DLQ_TOPIC),
        key=source.key,
        value=source.value,
        headers=source.headers + headers,
    )
    assert world.producer.emit([record], 20) == [None]


def event_of_job(world: World, job_id: str) -> OutgoingRecord:
    """Return an event of a job, as the stage before emits it."""
    event = Event(
        id="e",
        source=source_of(world.settings.service_name, "before"),
        type="broken",
        time=datetime.now(UTC),
        entity_id="ada",
        data=b"1",
        job_id=job_id,
        stage="before",
    )
    key, value, headers = encode(event)
    return OutgoingRecord(topic=world.settings.topic("broken"), key=key, value=value, headers=headers)


def test_an_event_is_listed_and_redriven_with_its_key_and_headers(world: World) -> None:
    """To the topic it came from; then it is no dead letter any more, and its plain id is the one it was."""
    topic = world.settings.topic("broken")
    rejected(world, OutgoingRecord(topic=topic, key=b"ada", value=b'"x"', headers=(("colour", b"red"),)))
    (letter,) = world.listed("--only", "kafka")
    assert (letter["source"], letter["error"], letter["reason"]) == (topic, "TooBad", "as asked")
    assert json.loads(world.run("dlq", "show", letter["id"], "--json").stdout)["data"] == '"x"'
    world.run("dlq", "redrive", letter["id"], "--yes")
    assert world.listed() == []
    (message,) = world.records("broken")
    assert (message.key, message.value, message.headers[0]) == (b"ada", b'"x"', ("colour", b"red"))
    at = Coordinates(topic=topic, partition=2, offset=40, timestamp_ms=1_700_000_000_000)
    first = decode(key=b"ada", value=b'"x"', headers=(), coordinates=at)
    again = decode(
        key=message.key,
        value=message.value,
        headers=message.headers,
        coordinates=Coordinates(
            topic=topic, partition=message.partition, offset=message.offset, timestamp_ms=message.timestamp_ms
        ),
    )
    assert (again.id, again.source, again.generation) == (first.id, first.source, 1)


def test_a_redriven_event_takes_its_job_as_running(world: World) -> None:
    """Its job failed with it; and an event of a topic that no stage consumes stays where it is."""
    job_id = world.give_up(mending.mend)
    event = event_of_job(world, job_id)
    rejected(world, event)
    rejected(world, replace(event, topic="elsewhere"))
    letters = world.listed("--only", "kafka")
    # A job that an event names is believed only on the topic that its stage emits to.
    begun = identity.job_id(source_of(world.settings.service_name, "before"), "e")
    jobs = {letter["source"]: letter["job_id"] for letter in letters}
    assert jobs == {world.settings.topic("broken"): job_id, "elsewhere": begun}
    text = world.run("dlq", "redrive", "--all", "--yes", code=1).stderr
    assert "no stage in TASK_MODULES consumes elsewhere" in text
    assert world.state(job_id) is JobState.RUNNING
    assert [letter["source"] for letter in world.listed()] == ["elsewhere"]
    world.run("dlq", "purge", "--name", world.dlq.name)
    assert world.listed() == []


def test_a_record_from_anywhere_is_listed(world: World) -> None:
    """Every record of the topic is shown, bytes that are no text too."""
    strange = OutgoingRecord(
        topic=world.settings.topic(DLQ_TOPIC),
        key=b"\xff",
        value=b"\xfe\x00",
        headers=(("dlq_partition", b"x"), ("\u00e9", b"\xff")),
    )
    assert world.producer.emit([strange], 20) == [None]
    (letter,) = world.listed()
    assert letter["error"] == "unknown"
    world.run("dlq", "show", letter["id"])
    assert "which topic" in world.run("dlq", "redrive", "--all", "--yes", code=1).stderr


# ─── The sweep ───


def test_what_sqs_moved_gets_a_reason_and_fails_its_job(world: World) -> None:
    """The errors topic is told, the letter says why, the job is failed; once, however often it is swept."""
    job_id = world.send(mending.mend, "vase")
    moved = world.take()
    bare = OutgoingMessage(body=moved.body, group_id=moved.group_id, deduplication_id=moved.deduplication_id)
    assert world.dlq.send([bare]) == [None]
    world.tasks.delete([moved.receipt_handle])
    assert world.swept() == [("explained", job_id)]
    assert world.state(job_id) is JobState.FAILED
    assert world.swept() == []
    (letter,) = world.listed()
    assert (letter["error"], letter["job_id"], letter["stage"]) == ("ReceivedTooOften", job_id, "mend")
    assert "SQS moved it here" in letter["reason"]
    assert letter["group_id"] == moved.group_id
    kinds = [json.loads(message.value or b"")["kind"] for message in world.records(ERRORS_TOPIC)]
    assert sorted(kinds) == ["job", "task"]
    world.run("dlq", "redrive", "--all", "--yes")
    assert world.take().body == moved.body


def test_many_of_one_group_that_sqs_moved_are_all_explained(world: World) -> None:
    """More than SQS hands out of a group at once: each that gets its reason uncovers the next."""
    for number in range(13):
        bare = OutgoingMessage(body=f"m{number}", group_id="ada", deduplication_id=f"d{number}")
        assert world.dlq.send([bare]) == [None]
    assert world.swept() == [("explained", None)] * 13
    assert len(world.listed()) == 13


def test_an_unrecorded_dead_letter_is_recorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker died between the dead-letter queue and the job's record."""
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "fail", lambda *_: Recorded(errors=()))
        job_id = world.give_up(mending.mend)
    assert world.state(job_id) is JobState.RUNNING
    assert world.swept() == [("recorded", job_id)]
    assert world.state(job_id) is JobState.FAILED


def test_a_full_counter_is_closed_again(world: World) -> None:
    """If the process that recorded the last part dies, the sweep sends the gather, once."""
    job_id = f"job-{uuid.uuid4().hex[:12]}"
    job = world.open(mending.fix, job_id)
    split = SplitRef(job_id=job_id, stage="fix", split_id=str(uuid.uuid4()))
    header = TaskHeader(
        job_id=job_id, stage="fix", role="split", event_source="s", event_id="e", entity_id="ada",
        topic="sets", partition=0, offset=0, submitted_at=job.submitted_at,
    )  # fmt: skip
    total = 300
    parts = [f'"p{n}"' for n in range(total)]
    world.store.splits.seal(split, header.model_dump_json(), json.dumps(["p"]), parts)
    done = [
        PartDone(ref=PartRef(job_id=job_id, stage="fix", split_id=split.split_id, ordinal=n, total=total))
        for n in range(total)
    ]
    assert len(world.store.tasks.record(done).closings) == 1
    assert world.swept() == [("closed", job_id)]
    gather = world.take()
    assert json.loads(gather.body)["headers"]["task"] == "fix.gather"
    assert world.swept() == [("waiting", job_id)]
    world.tasks.delete([gather.receipt_handle])
    wait_until(lambda: world.tasks.depth() == EMPTY, "the gather is gone")
    assert world.swept() == [("lost", job_id)]


def test_an_end_that_was_not_announced_is(world: World) -> None:
    """Every terminal stage is done, and who recorded the last died: job-complete is told, the job closed."""
    job_id = world.send(mending.serve, "x")
    done = StageDone(
        ref=StageRef(job_id=job_id, stage="serve"), task_id="t", ends_path=True, run_seconds=0.1,
        finished_at=time.time(), worker="w",
    )  # fmt: skip
    assert world.store.tasks.record([done]).closings
    assert world.swept() == [("closed", job_id)]
    assert world.state(job_id) is JobState.COMPLETE
    assert [dict(m.headers)["ce_type"] for m in world.records("jobs")] == [b"job-complete"]
    assert world.swept() == []


def test_a_job_that_waits_is_said_to_wait(world: World) -> None:
    """Its task is on the queue: nothing is wrong, and nothing is changed."""
    job_id = world.send(mending.mend, "x")
    assert world.swept() == [("waiting", job_id)]
    assert world.take().receive_count == 1


def test_a_redrive_that_was_cut_short_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job runs, its dead letter is still one: the sweep says which command goes on."""
    job_id = world.give_up(mending.mend)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.deadletters.redrive.Redriver._send_tasks", _raising(KeyboardInterrupt))
        world.run("dlq", "redrive", "--all", "--yes", code=130)
    assert world.swept() == [("redrive", job_id)]


def test_the_dlq_topic_is_read_once_a_sweep(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many jobs are lost; one of which an event was rejected is none of them."""
    scanned: list[str] = []

    def counting(settings: Settings, topic: str) -> Iterator[ReceivedRecord]:
        scanned.append(topic)
        return scan(settings, topic)

    first, *lost = (world.open(mending.mend, f"job-{uuid.uuid4().hex[:12]}").job_id for _ in range(4))
    rejected(world, event_of_job(world, first))
    monkeypatch.setattr("pipeline.deadletters.listing.scan", counting)
    assert set(world.swept()) == {("redrive", first), *(("lost", job_id) for job_id in lost)}
    assert scanned == [world.settings.topic(DLQ_TOPIC)]


def test_a_job_that_moves_while_it_is_judged_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue was read before its task came, its topic when the event was a task: it is looked at again."""
    lost, moving = (world.open(mending.mend, f"job-{uuid.uuid4().hex[:12]}").job_id for _ in range(2))
    ref = StageRef(job_id=moving, stage="mend")
    done = StageDone(
        ref=ref, task_id="t", ends_path=False, run_seconds=0.1, finished_at=time.time(), worker="w"
    )

    def meanwhile(settings: Settings, registry: Registry) -> Traffic:
        world.store.tasks.record([done])
        return read_traffic(settings, registry)

    with JobSweep(world.settings, load_stages((MODULE,))) as sweep:
        findings = sweep.run(0)
        monkeypatch.setattr(Examination, "_traffic", read_traffic(world.settings, load_stages((MODULE,))))
        monkeypatch.setattr("pipeline.deadletters.examination.read_traffic", meanwhile)
        assert [(each.kind, each.job_id) for each in findings] == [("lost", lost)]


def test_a_job_that_stands_still_is_reported_in_each_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the pass over the open jobs is elsewhere, or rests; not once it has ended."""
    job_id = world.open(mending.mend, f"job-{uuid.uuid4().hex[:12]}").job_id
    with JobSweep(world.settings, load_stages((MODULE,))) as sweep:
        assert [each.job_id for each in sweep.run(0, 60)] == [job_id]
        assert (world.store.passes.load() or Pass(began_at=0)).open_jobs == 1
        monkeypatch.setattr(Pass, "rests", lambda *_: True)
        monkeypatch.setattr("pipeline.deadletters.jobsweep.most_watched", lambda _: 0)
        for _ in range(2):
            assert [(each.kind, each.job_id) for each in sweep.run(0, 60)] == [("lost", job_id)]
        world.store.cancel(job_id)
        assert list(sweep.run(0, 60)) == []


def test_a_job_whose_dead_letter_somebody_looks_at_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its letter cannot be seen meanwhile: the sweep says so, and finds it once it is back."""
    monkeypatch.setattr("pipeline.deadletters.knownletters.RESTS", 0)
    with JobSweep(world.settings, load_stages((MODULE,))) as bridges:
        world.give_up(mending.mend)
        assert list(bridges.run(0)) == []
        # As many as were gone through are there again, and it is another one.
        assert world.dlq.delete([world.take(world.dlq).receipt_handle]) == [None]
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "fail", lambda *_: Recorded(errors=()))
            job_id = world.give_up(mending.mend)
        with QueueScan(world.dlq) as somebody:
            assert [len(batch) for batch in somebody.batches()] == [1]
            wait_until(lambda: world.dlq.depth().in_flight == 1, "it is held")
            assert world.swept() == [("waiting", job_id)]
            (found,) = bridges.run(0)
            assert (found.kind, found.job_id) == ("waiting", job_id)
            assert "1 dead letters" in found.text
    assert world.swept() == [("recorded", job_id)]


def test_the_bridge_sweeps_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a thread, beside its work; one of two does, and the thread ends with the block."""
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "fail", lambda *_: Recorded(errors=()))
        job_id = world.give_up(mending.mend)
    registry = load_stages((MODULE,))
    one, two = (periodic_sweep(world.settings, registry, every=0.4, idle=0.0) for _ in range(2))
    with one, two:
        wait_until(lambda: world.state(job_id) is JobState.FAILED, "the job is found to have failed")
        wait_until(lambda: _found("recorded"), "what was found is counted")
    assert _found("lost") == 0.0, "counted from 0 on"
    assert not [thread for thread in threading.enumerate() if thread.name == "sweep"]
    assert len(world.listed()) == 1


def test_a_clock_that_is_ahead_holds_no_turn(world: World) -> None:
    """A turn ends later than anybody's would: the next caller takes it, and others then wait for that one."""
    ahead = JobStore(world.settings, clock=lambda: time.time() + 3600)
    assert ahead.passes.take_turn(60, "ahead")
    assert [world.store.passes.take_turn(60, name) for name in ("a", "b", "a")] == [True, False, True]


def _found(kind: str) -> float | None:
    return metrics.REGISTRY.get_sample_value("pipeline_sweep_findings_total", {"kind": kind})


def _raising(error: type[BaseException]) -> Callable[..., Any]:
    def function(*_: object) -> Any:
        raise error

    return function
