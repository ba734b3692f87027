"""Records of a topic of others become jobs of the service, with real processes on real servers."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.jobs import JobState, JobStore
from pipeline.kafka import EventProducer, KafkaAdmin, OutgoingRecord, scan
from pipeline.services.children import Children, children
from pipeline.services.environment import Services
from pipeline.settings import load_settings
from pipeline.wire import identity
from pipeline.wire.events import source_of
from tests.conftest import MakeEnvironment
from tests.kafkagroups import lag
from tests.processes import wait_until

#: Never imported here: the consumers of this process are those of all tests.
STAGES, CONSUMERS = "tests.integration.foreign", "tests.integration.foreignrows"

PIPELINE = str(Path(sysconfig.get_path("scripts")) / "pipeline")

#: Each runs bridge and worker as processes; what they do does not differ by services.
pytestmark = pytest.mark.one_set


class World:
    """A service with a bridge and a worker, and the topic of others that it reads."""

    def __init__(self, environment: dict[str, str], folder: Path, started: Children) -> None:
        self.environment = environment
        self.folder = folder
        self.notes = Path(environment["NOTES"])
        self.settings = load_settings(environment)
        self.rows = self.settings.topic_of_others("rows")
        self.producer = EventProducer(self.settings, "test")
        self._started = started

    def start(self, command: str, **variables: str) -> Any:
        """Start ``celery -A pipeline <command>``; its output is in a file of its name."""
        words = [sys.executable, "-m", "celery", "-A", "pipeline", *command.split()]
        with (self.folder / f"{words[5]}.log").open("ab") as log:
            return self._started.start(words, environment=self.environment | variables, output=log)

    def emit(self, *rows: object) -> None:
        """Write rows to the topic of others, one after the other in one partition."""
        records = [
            OutgoingRecord(topic=self.rows, key=b"table", value=row if isinstance(row, bytes) else dump(row))
            for row in rows
        ]
        assert self.producer.emit(records, 30) == [None] * len(records)

    def noted(self) -> dict[str, list[int]]:
        """Return what was noted for each entity, in order."""
        return {path.name: [int(line) for line in path.read_text().split()] for path in self.notes.iterdir()}

    def wait_noted(self, wanted: dict[str, list[int]]) -> None:
        def is_there() -> bool:
            return self.noted() == wanted

        try:
            wait_until(is_there, "notes")
        except AssertionError:
            logs = {path.name: path.read_text()[-2000:] for path in self.folder.glob("*.log")}
            pytest.fail(f"noted {self.noted()}, wanted {wanted}; {logs}")

    def run(self, *arguments: str, **variables: str) -> list[dict[str, Any]]:
        """Run a command of ``pipeline``; return its lines of JSON."""
        done = subprocess.run(
            [PIPELINE, *arguments, "--json"],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def first_job(self) -> str:
        """Return the job that the first event of the first row begins: its id follows from the record."""
        first = next(each for each in scan(self.settings, self.rows) if each.offset == 0)
        plain = identity.plain_event_id(self.rows, 0, 0, first.timestamp_ms)
        event_id = identity.consumed_event_id(f"kafka:{self.rows}", plain, 0)
        return identity.job_id(source_of(self.settings.service_name, "amounts"), event_id)


def dump(row: object) -> bytes:
    return json.dumps(row).encode()


def row(customer: str, *amounts: int) -> dict[str, object]:
    return {"customer": customer, "amounts": amounts}


@pytest.fixture
def world(
    local_services: Services,
    make_environment: MakeEnvironment,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[World]:
    environment = make_environment(local_services, TASK_MODULES=STAGES, CONSUMER_MODULES=CONSUMERS)
    notes = tmp_path / "notes"
    notes.mkdir()
    environment |= {
        "KAFKA_TOPIC_ROWS": f"their.{environment['SERVICE_NAME']}",
        "NOTES": str(notes),
        "AUTO_PROVISION": "false",
    }
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    with children() as started:
        made = World(environment, tmp_path, started)
        # Without its consumers a service has no topics of others, which are made on this machine's brokers.
        made.run("provision", CONSUMER_MODULES=",")
        yield made
        made.producer.close(5)


def test_records_of_others_become_jobs(world: World) -> None:
    """Several of one record, in order per entity; refused ones are redriven, and a replay repeats none."""
    KafkaAdmin(world.settings).create(world.rows, partitions=1, replication=1, config={})
    world.emit(
        row("ada", 1, 2, 3), row("bob", 7), row("ada"), b"no json", row("", 1), row("eve", 5), row("ada", 4)
    )
    bridge = world.start("bridge", BROKEN_FOR="eve")
    world.start("worker --concurrency 2")
    world.wait_noted({"ada": [2, 4, 6, 8], "bob": [14]})
    wait_until(lambda: lag(world.settings, [world.rows]) == 0, "all committed")
    letters = world.run("dlq", "list")
    assert sorted(letter["reason"].partition(" (")[0][:40] for letter in letters) == [
        "consumer amounts: a defect",
        "consumer amounts: a row of nobody",
        "the value is not JSON in UTF-8: expected ident"[:40],
    ]
    store = JobStore(world.settings)
    wait_until(lambda: state_of(store, world.first_job()) is JobState.COMPLETE, "the job's end")
    job = store.records.get(world.first_job())
    assert job is not None
    assert (job.entity_id, job.topic) == ("ada", "amounts")
    # A repaired version: the redrive makes the job that was missing, and no other.
    bridge.terminate()
    assert bridge.wait(60) == 0
    world.start("bridge")
    (broken,) = [letter["id"] for letter in letters if "a defect" in letter["reason"]]
    (redriven,) = world.run("dlq", "redrive", broken, "--out-of-order", "--yes")
    assert redriven["outcome"] == "redriven"
    world.wait_noted({"ada": [2, 4, 6, 8], "bob": [14], "eve": [10]})
    lines = world.run("replay", "book", "--from", "1h", "--dry-run")
    outcomes = [(line["topic"], line["outcome"]) for line in lines]
    assert outcomes.count((world.rows, "found")) == 6
    assert outcomes.count((world.rows, "invalid")) == 2
    tasks = [line["task_id"] for line in lines if line["outcome"] == "found"]
    # The redriven event is on both topics, as the same task.
    assert (len(tasks), len(set(tasks))) == (7, 6)


def state_of(store: JobStore, job_id: str) -> JobState | None:
    job = store.records.get(job_id)
    return job.state if job else None


def test_a_bridge_does_not_start_without_the_topic(world: World) -> None:
    """It names the topic, the consumer and what to do."""
    bridge = world.start("bridge")
    assert bridge.wait(120) == 2
    said = (world.folder / "bridge.log").read_text()
    assert f"{world.rows} (read by amounts)" in said
