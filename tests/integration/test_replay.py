"""A replay sends one stage's tasks again beside the consumer group; done tasks run only on request."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.author.loading import load_stages
from pipeline.cli import main
from pipeline.infra.provision import provision
from pipeline.jobs import JobState, JobStore
from pipeline.kafka import EventProducer, OutgoingRecord
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from pipeline.sqs import ReceivedMessage, SqsQueue, sqs_client
from pipeline.wire import events, identity
from pipeline.wire.events import Event
from tests.conftest import MakeEnvironment
from tests.integration.shop import Shop, open_shop
from tests.integration.workshop import Order
from tests.kafkagroups import lag
from tests.processes import wait_until

SOURCE = "/tests"


class Post:
    """A provisioned service without bridge and worker, and the command on it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.settings: Settings = load_settings(environment)
        self.topic = self.settings.topic("letters")
        self.producer = EventProducer(self.settings, "test")
        list(provision(self.settings, load_stages(self.settings.task_modules)))

    def emit(self, numbers: Sequence[int], entity: str = "ada", data: Any = None) -> None:
        records = []
        for number in numbers:
            event = Event(
                id=f"e-{number}",
                source=SOURCE,
                type="letters",
                time=datetime.now(UTC),
                entity_id=entity,
                data=json.dumps(number if data is None else data).encode(),
            )
            key, value, headers = events.encode(event)
            records.append(OutgoingRecord(topic=self.topic, key=key, value=value, headers=headers))
        assert self.producer.emit(records, 30) == [None] * len(records)

    def replay(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["replay", *arguments], env=self.environment)
        assert result.exit_code == code, result.output
        return result

    def receive(self, count: int) -> list[ReceivedMessage]:
        """Receive and delete that many tasks, and see that no more come."""
        queue = SqsQueue(sqs_client(self.settings), self.settings.sqs_task_queue_url)
        received: list[ReceivedMessage] = []

        def take() -> bool:
            batch = queue.receive(10, wait_seconds=0, visibility_seconds=60)
            queue.delete([message.receipt_handle for message in batch])
            received.extend(batch)
            return len(received) >= count

        wait_until(take, f"{count} tasks")
        assert queue.receive(10, wait_seconds=0, visibility_seconds=60) == []
        return received


@pytest.fixture
def post(
    services: Services, make_environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Post]:
    environment = make_environment(services, TASK_MODULES="tests.integration.letters")
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    post = Post(environment)
    yield post
    post.producer.close(5)


def _data(message: ReceivedMessage) -> object:
    return json.loads(json.loads(message.body)["body"])[0][0]


def _ids(messages: Sequence[ReceivedMessage]) -> set[str]:
    return {message.deduplication_id for message in messages}


def _lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_tasks_are_those_that_the_bridge_made(post: Post) -> None:
    """The same ids, in the order of each entity, each job with its record; the group is where it was."""
    post.emit(range(30))
    post.emit(range(30, 50), entity="bob")
    assert "50 tasks sent" in post.replay("read", "--from", "1h").output
    tasks = post.receive(50)
    assert _ids(tasks) == {identity.task_id(SOURCE, f"e-{n}", "read", None) for n in range(50)}
    assert [_data(task) for task in tasks if task.group_id == "ada"] == list(range(30))
    assert [_data(task) for task in tasks if task.group_id == "bob"] == list(range(30, 50))
    assert JobStore(post.settings).records.get(identity.job_id(SOURCE, "e-7"))
    assert lag(post.settings, [post.topic]) == 50
    post.replay("read", "--from", "1h")
    assert post.receive(0) == [], "SQS still knows the ids"


def test_only_what_the_window_holds_is_replayed(post: Post) -> None:
    """From a moment on, up to another without it, of one entity."""
    post.emit([1])
    time.sleep(0.05)
    begin = datetime.now(UTC)
    post.emit([2])
    post.emit([3], entity="bob")
    time.sleep(0.05)
    end = datetime.now(UTC)
    time.sleep(0.05)
    post.emit([4])
    window = ("--from", begin.isoformat(), "--to", end.astimezone().isoformat())
    assert {line["event_id"] for line in _lines(post.replay("read", *window, "--json"))} == {"e-2", "e-3"}
    naive = ("--from", begin.replace(tzinfo=None).isoformat(), "--entity", "ada", "--dry-run", "--json")
    assert [line["event_id"] for line in _lines(post.replay("read", *naive))] == ["e-2", "e-4"]
    assert len(post.receive(2)) == 2


def test_again_makes_all_of_it_new(post: Post) -> None:
    """Another task in another job that runs; the replay resumed makes the same ones."""
    post.emit([1, 2])
    post.replay("read", "--from", "1h")
    first = _ids(post.receive(2))
    result = post.replay("read", "--from", "1h", "--again", "--json")
    second = post.receive(2)
    assert not first & _ids(second)
    assert [line["task_id"] for line in _lines(result)] == [message.deduplication_id for message in second]
    job_ids = {line["job_id"] for line in _lines(result)}
    assert not job_ids & {identity.job_id(SOURCE, "e-1"), identity.job_id(SOURCE, "e-2")}
    for job in JobStore(post.settings).records.get_many(job_ids):
        assert (job.state, job.entity_id) == (JobState.RUNNING, "ada")
        assert job.plan.terminals == {"read"}
    headers = [json.loads(message.body)["headers"]["pipeline"] for message in second]
    assert {header["job_id"] for header in headers} == job_ids
    replay_id = result.stderr.rstrip(".\n ").rsplit(" ", 1)[1]
    again = post.replay("read", "--from", "1h", "--again", "--resume", replay_id, "--json")
    assert [line["task_id"] for line in _lines(again)] == [line["task_id"] for line in _lines(result)]
    assert post.receive(0) == []


def test_what_makes_no_task_is_named(post: Post) -> None:
    """A record that is no event is the bridge's to bury; a task too large for SQS is exit code 1, no job."""
    assert post.producer.emit([OutgoingRecord(topic=post.topic, key=b"ada", value=b"\xff")], 30) == [None]
    post.emit([1])
    post.emit([2], data="x" * 1_050_000)
    result = post.replay("read", "--from", "1h", code=1)
    assert f"invalid: {post.topic}, partition" in result.stderr
    assert "1 tasks sent" in result.stderr
    assert "SQS takes" in result.stderr
    assert [_data(task) for task in post.receive(1)] == [1]
    assert JobStore(post.settings).records.get(identity.job_id(SOURCE, "e-2")) is None


def test_broken_off_it_says_how_to_go_on(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle: exit code 130, and the command that goes on sends the rest under the same ids."""
    post.emit(range(6))
    monkeypatch.setattr("pipeline.bridge.replay.CHUNK", 2)

    def interrupted(_: object, count: int, left: list[int] = [1]) -> None:  # noqa: B006 - counts the calls
        if not left:
            raise KeyboardInterrupt
        left.pop()

    with monkeypatch.context() as cut:
        cut.setattr("pipeline.bridge.replay.Replay._wait_for_room", interrupted)
        result = post.replay("read", "--from", "1h", "--again", code=130)
    assert "Interrupted after 2 tasks" in result.stderr
    command = result.stderr.split("pipeline replay ", 1)[1].split()
    sent = _ids(post.receive(2))
    post.replay(*command)
    assert len(sent | _ids(post.receive(4))) == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing", "--from", "1h"], "There is no stage 'nothing'. Stages: "),
        (["read"], "Missing option '--from'"),
        (["read", "--from", "yesterday"], "is not a time. Write"),
        (["read", "--from", "3 parsecs ago"], "is not"),
        (["read", "--from", "1h", "--to", "2h"], "--to is not after --from"),
        (["read", "--from", (datetime.now(UTC) + timedelta(days=1)).isoformat()], "not in the past"),
        (["read", "--from", "1h", "--resume", "x", "--again"], "is not the id of a replay"),
        (["read", "--from", "1h", "--resume", "1795501794-9f3a12bc"], "needs --again"),
    ],
)
def test_bad_input_is_told(
    embedded_services: Services, make_environment: MakeEnvironment, arguments: list[str], said: str
) -> None:
    """Exit code 2, and what would be right."""
    environment = make_environment(embedded_services, TASK_MODULES="tests.integration.letters")
    result = CliRunner().invoke(main, ["replay", *arguments], env=environment)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_side_switched_off_replays_nothing(
    embedded_services: Services, make_environment: MakeEnvironment
) -> None:
    """Exit code 2: nothing may be sent then."""
    environment = make_environment(
        embedded_services, TASK_MODULES="tests.integration.letters", USE_SQS_TASK_PROCESSING="false"
    )
    result = CliRunner().invoke(main, ["replay", "read", "--from", "1h"], env=environment)
    assert result.exit_code == 2
    assert "USE_SQS_TASK_PROCESSING" in result.stderr


# ─── With a worker ───


@pytest.fixture
def shop(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    with open_shop(embedded_services, make_environment, tmp_path_factory.mktemp("replayed")) as shop:
        worker = shop.start()
        yield shop
        assert shop.stop(worker) == 0


def test_finished_work_runs_again_only_when_asked(shop: Shop) -> None:
    """A replay of what is done runs nothing; ``--again`` is a second run, a second event, a second job."""
    environment = shop.environment
    run: Callable[..., Result] = lambda *arguments: CliRunner().invoke(main, arguments, env=environment)  # noqa: E731
    submitted = run("submit", "make", "--data", Order(key="twice").model_dump_json())
    assert submitted.exit_code == 0, submitted.output
    assert run("replay", "make", "--from", "1h").exit_code == 0
    shop.wait_job(submitted.stdout.strip())
    assert run("replay", "make", "--from", "1h").exit_code == 0
    shop.wait_empty()
    assert [line["what"] for line in shop.lines("twice")] == ["start", "end"]
    again = run("replay", "make", "--from", "1h", "--again", "--json")
    (line,) = _lines(again)
    shop.wait_job(line["job_id"])
    assert [line["what"] for line in shop.lines("twice")] == ["start", "end"] * 2
    made = [message for message, data in shop.events("made") if data["key"] == "twice"]
    assert len({dict(message.headers)["ce_id"] for message in made}) == 2
