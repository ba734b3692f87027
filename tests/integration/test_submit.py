"""``pipeline submit`` and ``pipeline jobs`` on real services, without a worker."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.jobs import FailedTask, JobFilled, JobStore, StageDone, StageRef
from pipeline.kafka import EventConsumer, KafkaAdmin
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from pipeline.wire.events import Coordinates, Event, decode
from tests.conftest import MakeEnvironment
from tests.processes import PATIENCE

pytestmark = pytest.mark.one_set

Run = Callable[..., Result]


@pytest.fixture
def environment(services: Services, make_environment: MakeEnvironment) -> dict[str, str]:
    return make_environment(services, TASK_MODULES="pipeline.demo.documents")


@pytest.fixture
def settings(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a service that is provisioned with a table and the first topic."""
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    settings = load_settings(environment)
    JobStore(settings).schema.provision()
    KafkaAdmin(settings).create(settings.topic("document-received"), partitions=4, replication=1, config={})
    return settings


@pytest.fixture
def run(settings: Settings, environment: dict[str, str]) -> Run:
    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, arguments, env=environment)
        assert result.exit_code == code, result.output
        return result

    return run


def objects(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def events_of(settings: Settings, count: int) -> list[Event]:
    """The first events on the topic."""
    topic = settings.topic("document-received")
    consumer = EventConsumer(
        settings,
        [topic],
        settings.kafka_consumer_group,
    )
    found: list[Event] = []
    deadline = time.monotonic() + PATIENCE
    try:
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} events of {count}"
            for message in consumer.poll(100, 0.2):
                at = Coordinates(
                    topic=message.topic,
                    partition=message.partition,
                    offset=message.offset,
                    timestamp_ms=message.timestamp_ms,
                )
                found.append(
                    decode(key=message.key, value=message.value, headers=message.headers, coordinates=at)
                )
    finally:
        consumer.close()
    return found


def complete(settings: Settings, job_id: str) -> None:
    """Record a done task as a worker would."""
    store = JobStore(settings)
    done = StageDone(
        ref=StageRef(job_id=job_id, stage="summarise"),
        task_id="t",
        ends_path=True,
        run_seconds=0.5,
        finished_at=time.time(),
        worker="w",
    )
    (closing,) = store.tasks.record([done]).closings
    assert isinstance(closing, JobFilled)
    assert store.close([closing]) == [None]


def fail(settings: Settings, job_id: str) -> None:
    """Record a dead letter as a worker would."""
    failure = FailedTask(
        ref=StageRef(job_id=job_id, stage="extract"),
        task_id="t",
        error="PermanentError",
        message="it is binary",
        attempts=1,
        failed_at=time.time(),
    )
    JobStore(settings).tasks.fail([failure])


def test_a_job_is_recorded_and_its_event_sent(run: Run, settings: Settings) -> None:
    """A submitted event is on the topic under the job's id, and its job is in the list."""
    result = run("submit", "extract", "--data", '{"path": "/a"}', "--entity", "me", "--json")
    (job,) = objects(result)
    assert next(iter(job)) == "job_id"
    (event,) = events_of(settings, 1)
    assert (event.job_id, event.entity_id, event.id) == (job["job_id"], "me", job["event_id"])
    assert event.data == b'{"path": "/a"}'
    (listed,) = objects(run("jobs", "list", "--json"))
    assert (listed["job_id"], listed["state"]) == (job["job_id"], "running")


def test_a_list_has_the_jobs_that_are_meant(run: Run) -> None:
    """Of an entity, of a time, of a state, and of all at once."""
    mine, others = (
        run("submit", "extract", "--data", '{"path": "/a"}', "--entity", entity).stdout.split()
        for entity in ("me", "you")
    )

    def listed(*options: str) -> list[str]:
        return [job["job_id"] for job in objects(run("jobs", "list", "--json", *options))]

    assert listed("--entity", "me") == listed("--entity", "me", "--newer-than", "1h") == mine
    assert sorted(listed("--newer-than", "1h", "--state", "running")) == sorted(mine + others)
    assert listed("--entity", "nobody") == listed("--newer-than", "0s") == []
    assert listed("--entity", "me", "--state", "failed") == []


def test_a_file_is_a_job_a_line(run: Run, settings: Settings, tmp_path: Any) -> None:
    """Every line is submitted, in order, and printed in that order."""
    file = tmp_path / "documents.jsonl"
    file.write_text("".join(f'{{"path": "/{number}"}}\n' for number in range(620)))
    printed = run("submit", "document-received", "--file", str(file)).stdout.split()
    sent = {event.job_id: json.loads(event.data)["path"] for event in events_of(settings, 620)}
    assert [sent[job_id] for job_id in printed] == [f"/{number}" for number in range(620)]
    assert len(objects(run("jobs", "list", "--json", "--limit", "700"))) == 620


def test_waiting_ends_with_the_jobs(run: Run, settings: Settings) -> None:
    """Exit code 0 when all completed, 1 when one failed, and the reason is said."""
    good, bad = (run("submit", "extract", "--data", '{"path": "/a"}').stdout.strip() for _ in range(2))
    complete(settings, good)
    fail(settings, bad)
    assert "complete" in run("jobs", "wait", good).stdout
    result = run("jobs", "wait", bad, good, code=1)
    assert result.stdout.startswith(f"{bad}  failed")
    assert "extract (run): PermanentError: it is binary" in result.stdout
    states = [job["state"] for job in objects(run("jobs", "wait", good, bad, "--json", code=1))]
    assert states == ["complete", "failed"]


def test_waiting_may_have_an_end(run: Run) -> None:
    """With a timeout, a job that still runs is exit code 1 and said to run."""
    result = run("submit", "extract", "--data", '{"path": "/a"}', "--wait", "--timeout", "0.3", code=1)
    assert "still running after 0.3 s" in result.stdout


def test_a_job_is_shown_stage_by_stage(run: Run, settings: Settings) -> None:
    """How far it is, why it failed, and what it did not come to."""
    job_id = run("submit", "extract", "--data", '{"path": "/a"}').stdout.strip()
    fail(settings, job_id)
    (shown,) = objects(run("jobs", "show", job_id, "--json"))
    assert list(shown)[:2] == ["job_id", "state"]
    assert {each["stage"]: each["state"] for each in shown["stages"]} == {
        "extract": "failed",
        "analyse": "not reached",
        "summarise": "not reached",
    }
    assert [each["message"] for each in shown["failures"]] == ["it is binary"]
    text = run("jobs", "show", job_id).stdout
    assert job_id in text
    assert "it is binary" in text


def test_jobs_are_listed_by_state(run: Run, settings: Settings) -> None:
    """--state shows only those; a person sees whole ids through a pipe."""
    one, two = (run("submit", "extract", "--data", '{"path": "/a"}').stdout.strip() for _ in range(2))
    fail(settings, two)
    assert [job["job_id"] for job in objects(run("jobs", "list", "--state", "failed", "--json"))] == [two]
    table = run("jobs", "list").stdout
    assert one in table
    assert two in table


@pytest.mark.parametrize("command", ["show", "wait"])
def test_an_unknown_job_is_said_to_be_unknown(run: Run, command: str) -> None:
    """Exit code 2 at once: a mistyped id is not waited for."""
    assert "There is no job 'nobody'" in run("jobs", command, "nobody", code=2).stderr


def test_a_job_is_named_by_the_beginning_of_its_id(run: Run) -> None:
    """As the jobs page shows it."""
    job_id = run("submit", "extract", "--data", '{"path": "/a"}').stdout.strip()
    (shown,) = objects(run("jobs", "show", job_id[:8], "--json"))
    assert shown["job_id"] == job_id
    waited = run("jobs", "wait", "--timeout", "0.1", job_id[:8], code=1)
    assert waited.stdout.startswith(f"{job_id}  still running")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, "Could not reach Kafka"),
        ({"KAFKA_TOPIC_DOCUMENT_RECEIVED": "not-provisioned"}, "Could not find topic not-provisioned"),
    ],
    ids=["Kafka is down", "no topic"],
)
def test_a_job_that_kafka_cannot_take_leaves_no_record(
    run: Run, environment: dict[str, str], services: Services, change: dict[str, str], reason: str
) -> None:
    """It fails within seconds, and the list of jobs is empty."""
    if "KAFKA_BOOTSTRAP_SERVERS" not in change and services.name == "embedded":
        pytest.skip("the embedded Kafka makes every topic it is asked for")
    began = time.monotonic()
    submit = ["submit", "extract", "--data", '{"path": "/a"}']
    result = CliRunner().invoke(main, submit, env={**environment, **change})
    assert result.exit_code == 1, result.output
    assert reason in result.stderr
    assert time.monotonic() - began < 60
    assert run("jobs", "list", "--json").stdout == ""


def test_input_that_could_only_fail_leaves_no_record(run: Run) -> None:
    """A message too large for SQS, an entity too long or empty: exit code 2 before anything is written."""
    data = '{"path": "/a"}'
    large = json.dumps({"path": "x" * 1_048_576})
    assert "bytes, and SQS takes" in run("submit", "extract", "--data", large, code=2).stderr
    for entity in ("", "x" * 1_025):
        run("submit", "extract", "--data", data, "--entity", entity, code=2)
    assert run("jobs", "list", "--json").stdout == ""
