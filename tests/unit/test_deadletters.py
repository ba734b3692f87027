"""Dead letters without a service: filters, reading, and how a scan holds and releases messages."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.deadletters import (
    DeadLetter,
    Filter,
    Listing,
    Redriver,
    RedriveResult,
    place_of,
    redrive_all,
    remove_all,
)
from pipeline.deadletters.letter import Place, letter_id
from pipeline.deadletters.queuescan import HOLD, QueueScan
from pipeline.deadletters.reading import event_task_id, read_event, read_task
from pipeline.errors import MessageRefusedError, ServiceError
from pipeline.kafka import OutgoingRecord, ReceivedRecord
from pipeline.settings import Settings, load_settings
from pipeline.sqs import QueueDepth, ReceivedMessage
from pipeline.wire import identity
from pipeline.wire.deadletter import DLQ_HEADERS, decode_mark, encode_headers, encode_mark, own_headers
from pipeline.wire.events import Coordinates, redrive_of
from pipeline.wire.failure import Failure
from tests.builders import received_message

ENVIRONMENT = {
    "SERVICE_NAME": "shop",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "KAFKA_CONSUMER_GROUP": "shop",
    "SQS_TASK_QUEUE_URL": "http://127.0.0.1:1/1/tasks.fifo",
    "SQS_DLQ_URL": "http://127.0.0.1:1/1/dlq.fifo",
}


PLACES: tuple[Place, ...] = ("kafka", "errors")


@pytest.fixture
def settings() -> Settings:
    return load_settings(ENVIRONMENT)


def message(body: str = "{}", message_id: str = "m-1", **attributes: str) -> ReceivedMessage:
    return received_message(message_id, body=body, group_id="g", sent_at=100.0, attributes=attributes)


def letter(**changes: object) -> DeadLetter:
    facts: dict[str, object] = {
        "id": "m-1", "place": "sqs", "error": "shop.errors.OutOfStock", "reason": "", "queue": "tasks.fifo",
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
    """A message that is not a task is shown as data with its error, without a reason until the sweep."""
    read = read_task(settings, message(body))
    assert (read.data, read.ref, read.job_id, read.source) == (body, None, None, "tasks.fifo")
    assert "not a Celery message" in read.reason
    assert not read.explained
    assert read_task(settings, message(body, reason="because", error="E")).reason == "because"


def test_attributes_that_are_no_numbers_are_nothing(settings: Settings) -> None:
    """The letter is read without them, and the sender does not matter."""
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


def record(*headers: tuple[str, bytes], value: bytes | None = b"7") -> ReceivedRecord:
    return ReceivedRecord(
        topic="shop-dlq", partition=3, offset=17, timestamp_ms=5_000, key=b"ada", value=value, headers=headers
    )


def test_any_record_can_be_read(settings: Settings) -> None:
    """Without the bridge's headers, with strange ones, with bytes that are no text, with no value."""
    strange = (("dlq_topic", b"\xff"), ("dlq_partition", b"x"), ("a", b"\xfe"))
    for each in (record(), record(*strange), record(value=None), record(value=b"\xff")):
        read = read_event(settings, each)
        assert (read.id, read.place, read.error, read.source) == ("kafka:3:17", "kafka", "unknown", None)
    assert [place_of(letter_id(place, 3, 17)) for place in PLACES] == list(PLACES)
    assert place_of("m-1") == "sqs"


def test_only_the_bridges_own_headers_are_taken_off(settings: Settings) -> None:
    """A redriven record has the headers it came with; of two with one name the bridge's counts."""
    own = (("colour", b"red"), ("ce_id", b"1"))
    added = tuple((name, b"2") for name in DLQ_HEADERS)
    read = record(*own, ("dlq_topic", b"forged"), *added)
    assert own_headers(read.headers) == own
    assert read_event(settings, read).source == "2"


@dataclass
class OneLetter:
    """A listing of one letter."""

    letter: DeadLetter

    @property
    def scan(self) -> QueueScan:
        """A scan of no queue."""
        return scan_of(Queue())

    def batches(self) -> Iterator[list[DeadLetter]]:
        """The letter."""
        yield [self.letter]


@dataclass
class Producer:
    """Keeps the records that it is given."""

    records: list[OutgoingRecord] = field(default_factory=list)

    def emit(self, records: Sequence[OutgoingRecord], _: float) -> list[ServiceError | None]:
        """Acknowledge all."""
        self.records += records
        return [None] * len(records)


def test_a_mark_names_what_it_is_about(settings: Settings) -> None:
    """And is no dead letter itself."""
    listing, producer = OneLetter(read_event(settings, record())), Producer()
    assert list(remove_all(listing, producer, "purged")) == [[(listing.letter, None)]]  # type: ignore[arg-type]
    (mark,) = producer.records
    assert (mark.topic, mark.value) == ("shop-dlq", None)
    assert decode_mark(mark.key, mark.value, mark.headers) == "kafka:3:17"
    read = record()
    assert decode_mark(read.key, read.value, read.headers) is None


#: An event's own headers under names of this project: of a mark, of a redrive and of a dead letter.
RESERVED = (
    ("dlq_handled", b"kafka:0:0"),
    ("dlq_how", b"redriven"),
    ("redrive", b'{"generation":999999,"topic":"t","partition":0,"offset":0,"timestamp_ms":1}'),
    ("dlq_topic", b"elsewhere"),
    ("own_redrive", b"x"),
)


def test_headers_that_came_with_an_event_are_not_obeyed(settings: Settings) -> None:
    """On the DLQ topic they have other names; a redrive gives the event back as it came."""
    at = Coordinates(topic="orders", partition=1, offset=2, timestamp_ms=3_000)
    failure = Failure(error="E", reason="no", failed_at=1.0)
    buried = record(*encode_headers((("colour", b"red"), *RESERVED), failure, at, None), value=None)
    assert own_headers(buried.headers) == (("colour", b"red"), *RESERVED)
    assert decode_mark(b"kafka:0:0", None, buried.headers) is None
    assert "redrive" not in dict(buried.headers)
    read = read_event(settings, buried)
    assert (read.source, read.generation, read.error) == ("orders", 0, "E")
    again = Redriver._event(read)
    assert [name for name, _ in again.headers].count("redrive") == 1
    redrive = redrive_of(again.headers, "orders", again.key, again.value)
    assert redrive is not None
    assert (redrive.generation, redrive.offset) == (1, 2)


@pytest.mark.parametrize("value", [b"7", b"no json"], ids=["an event", "no event"])
def test_a_dead_lettered_event_is_known_by_the_task_it_makes(value: bytes) -> None:
    """Another event of its stage may be done: that does not make its redrive superfluous."""
    at = Coordinates(topic="orders", partition=1, offset=2, timestamp_ms=3_000)
    failure = Failure(error="E", reason="no", failed_at=1.0)
    plain = record(*encode_headers((), failure, at, None), value=value)
    event_id = identity.plain_event_id("orders", 1, 2, 3_000)
    assert event_task_id(plain, at, "sell") == identity.task_id("kafka:orders", event_id, "sell", None)


def test_a_mark_is_a_record_of_its_own() -> None:
    """A mark's headers on a record with a value, another key or other headers hide no dead letter."""
    headers = encode_mark("kafka:0:0", "redriven")
    assert decode_mark(b"kafka:0:0", None, headers) == "kafka:0:0"
    assert decode_mark(b"kafka:0:0", b"{}", headers) is None
    assert decode_mark(b"ada", None, headers) is None
    assert decode_mark(b"kafka:0:0", None, (*headers, ("ce_id", b"1"))) is None


# ─── A scan ───


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


def scan_of(queue: Queue) -> QueueScan:
    return QueueScan(queue, clock=lambda: queue.now)  # type: ignore[arg-type]


def test_a_scan_sees_each_letter_once_and_lets_all_go() -> None:
    """Groups of their own: one scan sees them all, and afterwards none is hidden."""
    queue = Queue(messages={f"m{n}": f"dead-{n}" for n in range(47)})
    with scan_of(queue) as scan:
        seen = [each.message_id for batch in scan.batches() for each in batch]
        assert queue.depth() == QueueDepth(available=0, in_flight=47, delayed=0)
        assert (scan.complete, scan.unseen()) == (True, 0)
    assert sorted(seen) == sorted(queue.messages)
    assert queue.depth().available == 47


def test_a_scan_lets_all_go_when_it_is_cut_off() -> None:
    """Ctrl-C in the middle hides nothing."""
    queue = Queue(messages={f"m{n}": f"dead-{n}" for n in range(25)})

    def cut_off() -> None:
        with scan_of(queue) as scan:
            next(scan.batches())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    assert queue.depth().available == 25


def test_a_long_scan_keeps_what_it_holds() -> None:
    """Slower than a hold lasts: what was seen is extended, so that nothing is seen twice."""
    queue = Queue(messages={f"m{n}": f"dead-{n}" for n in range(95)})
    seen = []
    with scan_of(queue) as scan:
        for batch in scan.batches():
            seen += [each.message_id for each in batch]
            queue.now += HOLD / 3
            assert queue.depth().in_flight == len(seen)
    assert sorted(seen) == sorted(queue.messages)
    assert len(seen) == 95


def test_a_scan_that_slept_sees_nothing_twice() -> None:
    """Its holds ran out (a pager, a suspended machine): letters handed out anew are not shown anew."""
    queue = Queue(messages={f"m{n}": f"dead-{n}" for n in range(25)})
    seen = []
    with scan_of(queue) as scan:
        for number, batch in enumerate(scan.batches()):
            seen += [each.message_id for each in batch]
            queue.now += 10 * HOLD if number == 1 else 0
    assert sorted(seen) == sorted(queue.messages)
    assert queue.depth().available == 25


def test_letters_of_one_group_are_said_to_be_unseen() -> None:
    """SQS hides them behind those that are held; deleting those uncovers them."""
    queue = Queue(messages={f"m{n}": "ada" for n in range(13)})
    with scan_of(queue) as scan:
        assert [len(batch) for batch in scan.batches()] == [10]
        assert scan.unseen() == 3
    with scan_of(queue) as scan:
        sizes = []
        for batch in scan.batches():
            sizes.append(len(batch))
            assert scan.delete(batch) == [None] * len(batch)
    assert sizes == [10, 3]


# ─── Bulk redrive ───


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    """The queue of a listing, with 300 letters; they share a clock."""
    queue = Queue(messages={f"m{n}": f"dead-{n}" for n in range(300)})
    monkeypatch.setattr("pipeline.deadletters.listing.sqs_client", lambda _: None)
    monkeypatch.setattr("pipeline.deadletters.listing.SqsQueue", lambda *_: queue)
    monkeypatch.setattr("pipeline.deadletters.listing.QueueScan", scan_of)
    return queue


class SlowRedriver:
    """Takes two seconds for what it redrives together, and removes it."""

    def __init__(self, scan: QueueScan, queue: Queue) -> None:
        self._scan = scan
        self._queue = queue

    def redrive(self, letters: Sequence[DeadLetter]) -> list[RedriveResult]:
        """Each is on its way again, unless it cannot be removed."""
        self._queue.now += 2
        errors = self._scan.delete([each.raw for each in letters])  # type: ignore[misc]
        return [
            RedriveResult(letter=each, outcome="failed" if error else "redriven", why=str(error or ""))
            for each, error in zip(letters, errors, strict=True)
        ]

    def refuse_unproved(self, letters: Sequence[DeadLetter]) -> list[RedriveResult]:
        """All are proved."""
        return []

    def remove_copies(self, letters: Sequence[DeadLetter]) -> list[RedriveResult]:
        """There are none."""
        assert not letters
        return []


def test_a_redrive_holds_what_it_collected_until_its_turn(settings: Settings, queue: Queue) -> None:
    """Longer than a hold lasts, without a rate as with one: none comes back, to be sent again by another."""
    with Listing(settings, Filter(place="sqs")) as listing:
        redriver = SlowRedriver(listing.scan, queue)
        answers = [each for some in redrive_all(listing, redriver) for each in some]  # type: ignore[arg-type]
    assert {(each.outcome, each.why) for each in answers} == {("redriven", "")}
    assert (len(answers), queue.messages) == (300, {})


def test_listing_a_long_topic_keeps_the_letters_of_the_queue(
    settings: Settings, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are redriven when the topic was read as well, and must not have lapsed meanwhile."""

    def slow(settings: Settings, topic: str) -> Iterator[ReceivedRecord]:
        for _ in range(20):
            queue.now += HOLD / 4
            yield record()

    monkeypatch.setattr("pipeline.deadletters.listing.scan", slow)
    with Listing(settings, Filter()) as listing:
        assert len(list(listing.letters())) == 320
        assert queue.depth().in_flight == 300


# ─── The command line ───


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["redrive"], "Select dead letters"),
        (["redrive", "--all", "--job", "j"], "--all selects every dead letter"),
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
