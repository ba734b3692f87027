"""Dead letters without a service: what a filter means, what is read, how a walk holds and lets go."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from click.testing import CliRunner

from config.settings import Settings, load_settings
from pipeline.cli import main
from pipeline.deadletters import DLQ_HEADERS, DeadLetter, Filter, Look, Redriven, redrive_all
from pipeline.deadletters.events import is_letter_id, letter_id, mark, marked, own_headers, read_event
from pipeline.deadletters.tasks import read_task
from pipeline.deadletters.walk import HOLD, Walk
from pipeline.errors import MessageRefusedError, ServiceError
from pipeline.kafka import Message
from pipeline.sqs import QueueDepth, ReceivedMessage

ENVIRONMENT = {
    "SERVICE_NAME": "shop",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "KAFKA_CONSUMER_GROUP": "shop",
    "SQS_TASK_QUEUE_URL": "http://127.0.0.1:1/1/tasks.fifo",
    "SQS_DLQ_URL": "http://127.0.0.1:1/1/dlq.fifo",
}


@pytest.fixture
def settings() -> Settings:
    return load_settings(ENVIRONMENT)


def message(body: str = "{}", message_id: str = "m-1", **attributes: str) -> ReceivedMessage:
    return ReceivedMessage(
        message_id=message_id,
        receipt_handle=f"h-{message_id}",
        body=body,
        group_id="g",
        deduplication_id="d",
        receive_count=1,
        sent_at=100.0,
        attributes=attributes,
        requested_at=0.0,
    )


def letter(**changes: object) -> DeadLetter:
    facts: dict[str, object] = {
        "id": "m-1", "place": "sqs", "error": "shop.errors.OutOfStock", "reason": "", "source": "tasks.fifo",
        "stage": "sell", "job_id": "j-1", "task_id": "t-1", "failed_at": 100.0, "raw": message(),
    }  # fmt: skip
    return DeadLetter(**(facts | changes))  # type: ignore[arg-type]


# ─── Filters ───


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(stage="sell"),
        Filter(job_id="j-1"),
        Filter(error="OutOfStock"),
        Filter(error="shop.errors.OutOfStock"),
        Filter(error="Out*"),
        Filter(error="shop.*"),
        Filter(before=100.5),
        Filter(since=100.0),
        Filter(place="sqs"),
        Filter(ids=frozenset({"m-1"})),
        Filter(ids=frozenset({"t-1"})),
        Filter(stage="sell", job_id="j-1", since=99.0, before=101.0),
    ],
)
def test_a_filter_takes_what_is_meant(wanted: Filter) -> None:
    """Everything that is given must hold, and nothing else counts."""
    assert wanted(letter())
    assert wanted.is_empty is (wanted == Filter())


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(stage="buy"),
        Filter(job_id="j-2"),
        Filter(error="outofstock"),
        Filter(error="errors"),
        Filter(before=100.0),
        Filter(since=100.5),
        Filter(place="kafka"),
        Filter(ids=frozenset({"m-2"})),
        Filter(stage="sell", job_id="j-2"),
    ],
)
def test_a_filter_leaves_the_rest(wanted: Filter) -> None:
    """One thing that does not hold is enough."""
    assert not wanted(letter())


# ─── Reading ───


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "{}",
        "[" * 10_000,
        '{"body": 1}',
        '{"body": "x", "headers": {"id": [], "task": 3}}',
        "\ud800",
    ],
)
def test_any_message_can_be_read(settings: Settings, body: str) -> None:
    """What is no task is all data, with what is wrong with it, and unexplained until somebody explains it."""
    read = read_task(settings, message(body))
    assert (read.data, read.ref, read.job_id, read.source) == (body, None, None, "tasks.fifo")
    assert "not a Celery message" in read.reason
    assert not read.explained
    assert read_task(settings, message(body, reason="because", error="E")).reason == "because"


def test_attributes_that_are_no_numbers_are_nothing(settings: Settings) -> None:
    """Whoever sent it."""
    read = read_task(
        settings, message(reason="r", attempts="many", failed_at="nan", first_at="x", generation="-1")
    )
    assert (read.attempts, read.failed_at, read.first_at, read.generation) == (0, 100.0, 100.0, 0)


def test_a_header_that_belongs_to_another_task_is_not_believed(settings: Settings) -> None:
    """A hostile message must not fail, or revive, somebody else's job."""
    header = {
        "job_id": "j-1", "stage": "sell", "role": "run", "event_source": "s", "event_id": "e",
        "entity_id": "x", "topic": "t", "partition": 0, "offset": 0, "submitted_at": 1.0,
    }  # fmt: skip
    headers = {"id": "t-1", "task": "other", "pipeline": header}
    body = json.dumps({"body": '[[1],{},{"chain":null}]', "headers": headers, "properties": {}})
    read = read_task(settings, message(body))
    assert (read.ref, read.job_id, read.task) == (None, None, "other")
    assert "is not one of task 'other'" in read.reason


def record(*headers: tuple[str, bytes], value: bytes | None = b"7") -> Message:
    return Message(
        topic="shop-dlq", partition=3, offset=17, timestamp_ms=5_000, key=b"ada", value=value, headers=headers
    )


def test_any_record_can_be_read() -> None:
    """Without the bridge's headers, with strange ones, with bytes that are no text, with no value."""
    strange = (("dlq_topic", b"\xff"), ("dlq_partition", b"x"), ("a", b"\xfe"))
    for each in (record(), record(*strange), record(value=None), record(value=b"\xff")):
        read = read_event(each, "shop")
        assert (read.id, read.place, read.error, read.source) == ("kafka:3:17", "kafka", "unknown", None)
    assert is_letter_id(letter_id(3, 17))
    assert not is_letter_id("m-1")


def test_only_the_bridges_own_headers_are_taken_off() -> None:
    """A redriven record has the headers it came with; of two with one name the bridge's counts."""
    own = (("colour", b"red"), ("ce_id", b"1"))
    added = tuple((name, b"2") for name in DLQ_HEADERS)
    read = record(*own, ("dlq_topic", b"forged"), *added)
    assert own_headers(read) == own
    assert read_event(read, "shop").source == "2"


def test_a_mark_names_what_it_is_about() -> None:
    """And is no dead letter itself."""
    made = mark(read_event(record(), "shop"), "redriven")
    stored = replace(record(*made.headers), value=made.value)
    assert (made.topic, marked(stored), marked(record())) == ("shop-dlq", "kafka:3:17", None)


# ─── A walk ───


@dataclass
class Queue:
    """A FIFO queue with its clock: what is held is not handed out, nor is anything behind it in its group."""

    now: float = 1_000.0
    messages: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, float] = field(default_factory=dict)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    handles: dict[str, str] = field(default_factory=dict)

    name = "dlq.fifo"

    def receive(
        self, most: int = 10, *, wait_seconds: int, visibility_seconds: int, attempt_id: str | None = None
    ) -> list[ReceivedMessage]:
        held = {self.messages[each] for each in self.messages if self._is_hidden(each)}
        given = [each for each, group in self.messages.items() if group not in held][:most]
        found = []
        for each in given:
            self.hidden[each] = self.now + visibility_seconds
            self.handles[each] = f"{each}/{next(self.numbers)}"
            received = message(f'"{each}"', message_id=each)
            found.append(replace(received, receipt_handle=self.handles[each], requested_at=self.now))
        return found

    def change_visibility(self, changes: Sequence[tuple[str, int]]) -> list[ServiceError | None]:
        answers = [self._refusal(handle) for handle, _ in changes]
        for (handle, seconds), error in zip(changes, answers, strict=True):
            if error is None:
                self.hidden[handle.split("/")[0]] = self.now + seconds
        return answers

    def delete(self, handles: Sequence[str]) -> list[ServiceError | None]:
        answers = [self._refusal(handle) for handle in handles]
        for handle, error in zip(handles, answers, strict=True):
            if error is None:
                del self.messages[handle.split("/")[0]]
        return answers

    def depth(self) -> QueueDepth:
        held = sum(map(self._is_hidden, self.messages))
        return QueueDepth(available=len(self.messages) - held, in_flight=held, delayed=0)

    def _is_hidden(self, message_id: str) -> bool:
        return self.hidden.get(message_id, 0) > self.now

    def _refusal(self, handle: str) -> ServiceError | None:
        """A FIFO queue refuses a handle whose time is over: its letter may be somebody else's."""
        message_id = handle.split("/")[0]
        if self.handles.get(message_id) == handle and self._is_hidden(message_id):
            return None
        return MessageRefusedError("expired")


def walk_of(queue: Queue) -> Walk:
    return Walk(queue, clock=lambda: queue.now)  # type: ignore[arg-type]


def test_a_walk_sees_each_letter_once_and_lets_all_go() -> None:
    """Groups of their own: one walk sees them all, and afterwards none is hidden."""
    queue = Queue(messages={f"m{n}": f"dead-{n}" for n in range(47)})
    with walk_of(queue) as walk:
        seen = [each.message_id for batch in walk.batches() for each in batch]
        assert queue.depth() == QueueDepth(available=0, in_flight=47, delayed=0)
        assert (walk.complete, walk.unseen()) == (True, 0)
    assert sorted(seen) == sorted(queue.messages)
    assert queue.depth().available == 47


def test_a_walk_lets_all_go_when_it_is_cut_off() -> None:
    """Ctrl-C in the middle hides nothing."""
    queue = Queue(messages={f"m{n}": f"dead-{n}" for n in range(25)})

    def look() -> None:
        with walk_of(queue) as walk:
            next(walk.batches())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look()
    assert queue.depth().available == 25


def test_a_long_walk_keeps_what_it_holds() -> None:
    """Slower than a hold lasts: what was seen is extended, so that nothing is seen twice."""
    queue = Queue(messages={f"m{n}": f"dead-{n}" for n in range(95)})
    seen = []
    with walk_of(queue) as walk:
        for batch in walk.batches():
            seen += [each.message_id for each in batch]
            queue.now += HOLD / 3
            assert queue.depth().in_flight == len(seen)
    assert sorted(seen) == sorted(queue.messages)
    assert len(seen) == 95


def test_a_walk_that_slept_sees_nothing_twice() -> None:
    """Its holds ran out (a pager, a suspended machine): letters handed out anew are not shown anew."""
    queue = Queue(messages={f"m{n}": f"dead-{n}" for n in range(25)})
    seen = []
    with walk_of(queue) as walk:
        for number, batch in enumerate(walk.batches()):
            seen += [each.message_id for each in batch]
            queue.now += 10 * HOLD if number == 1 else 0
    assert sorted(seen) == sorted(queue.messages)
    assert queue.depth().available == 25


def test_letters_of_one_group_are_said_to_be_unseen() -> None:
    """SQS hides them behind those that are held; deleting those uncovers them."""
    queue = Queue(messages={f"m{n}": "ada" for n in range(13)})
    with walk_of(queue) as walk:
        assert [len(batch) for batch in walk.batches()] == [10]
        assert walk.unseen() == 3
    with walk_of(queue) as walk:
        sizes = []
        for batch in walk.batches():
            sizes.append(len(batch))
            assert walk.delete(batch) == [None] * len(batch)
    assert sizes == [10, 3]


# ─── A campaign ───


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    """The queue that a look goes through, with 300 letters; its clock is that of the look."""
    queue = Queue(messages={f"m{n}": f"dead-{n}" for n in range(300)})
    monkeypatch.setattr("pipeline.deadletters.look.sqs_client", lambda _: None)
    monkeypatch.setattr("pipeline.deadletters.look.SqsQueue", lambda *_: queue)
    monkeypatch.setattr("pipeline.deadletters.look.Walk", walk_of)
    return queue


class SlowRedriver:
    """Takes two seconds for what it redrives together, and removes it."""

    def __init__(self, walk: Walk, queue: Queue) -> None:
        self._walk = walk
        self._queue = queue

    def redrive(self, letters: Sequence[DeadLetter]) -> list[Redriven]:
        """Each is on its way again, unless it cannot be removed."""
        self._queue.now += 2
        errors = self._walk.delete([each.raw for each in letters])  # type: ignore[misc]
        return [
            Redriven(letter=each, outcome="failed" if error else "redriven", why=str(error or ""))
            for each, error in zip(letters, errors, strict=True)
        ]

    def remove_copies(self, letters: Sequence[DeadLetter]) -> list[Redriven]:
        """There are none."""
        assert not letters
        return []


def test_a_redrive_holds_what_it_collected_until_its_turn(settings: Settings, queue: Queue) -> None:
    """Longer than a hold lasts, without a rate as with one: none comes back, to be sent again by another."""
    with Look(settings, Filter(place="sqs")) as look:
        redriver = SlowRedriver(look.walk, queue)
        answers = [each for some in redrive_all(look, redriver) for each in some]  # type: ignore[arg-type]
    assert {(each.outcome, each.why) for each in answers} == {("redriven", "")}
    assert (len(answers), queue.messages) == (300, {})


def test_a_look_at_a_long_topic_keeps_the_letters_of_the_queue(
    settings: Settings, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are redriven when the topic was read as well, and must not have lapsed meanwhile."""

    def slow(settings: Settings, topic: str) -> Iterator[Message]:
        for _ in range(20):
            queue.now += HOLD / 4
            yield record()

    monkeypatch.setattr("pipeline.deadletters.look.scan", slow)
    with Look(settings, Filter()) as look:
        assert len(list(look.letters())) == 320
        assert queue.depth().in_flight == 300


# ─── The command line ───


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["redrive"], "Say which"),
        (["redrive", "--all", "--job", "j"], "--all means all of them"),
        (["redrive", "--all", "--rate", "0"], "--rate"),
        (["list", "--older-than", "yesterday"], "Write 90s, 30m, 2h or 7d"),
        (["list", "--only", "elsewhere"], "--only"),
        (["show"], "Missing argument 'ID'"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], said: str) -> None:
    """Exit code 2 before any service is asked."""
    result = CliRunner().invoke(main, ["dlq", *arguments], env=ENVIRONMENT)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("command", ["list", "show", "redrive", "purge", "export"])
def test_every_command_has_examples(command: str) -> None:
    """--help shows how it is used."""
    assert f"pipeline dlq {command}" in CliRunner().invoke(main, ["dlq", command, "--help"]).stdout
