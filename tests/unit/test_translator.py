"""An event becomes a task for each stage that reads its topic, or a rejection that says why."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from config.settings import Settings
from consumers.offsets import OffsetTracker
from consumers.outbox import REJECTED, Entry, SharedTicket
from consumers.translator import Translator
from pipeline import events, identity
from pipeline.events import Event, Redrive
from pipeline.kafka import Headers, Message, Partition
from pipeline.registry import Registry
from pipeline.stages import stage

NOW = 1_800_000_000.0
DAY = 86_400.0


@pytest.fixture
def registry() -> Registry:
    registry = Registry()

    @stage(consumes="letters", emits="words", registry=registry)
    def read(letter: str) -> str:
        return letter

    @stage(consumes="letters", ordered=True, queue="slow.fifo", registry=registry)
    def archive(letter: str) -> str:
        return letter

    @stage(consumes="words", registry=registry)
    def count(word: str) -> int:
        return len(word)

    return registry


@pytest.fixture
def translator(registry: Registry) -> Translator:
    settings = Settings(
        service_name="post",
        topic_prefix="my-",
        kafka_bootstrap_servers="unused",
        kafka_consumer_group="post",
        sqs_task_queue_url="https://sqs/1/tasks.fifo",
        sqs_dlq_url="https://sqs/1/dlq.fifo",
    )
    return Translator(settings, registry, clock=lambda: NOW)


def _message(
    value: bytes | None,
    headers: Headers = (),
    *,
    topic: str = "my-letters",
    key: bytes | None = b"ada",
    written: float = NOW - 1,
) -> Message:
    return Message(
        topic=topic,
        partition=2,
        offset=7,
        timestamp_ms=int(written * 1000),
        key=key,
        value=value,
        headers=headers,
    )


def _event(**changes: object) -> Message:
    given: dict[str, object] = {
        "id": "e-1",
        "source": "/submit",
        "type": "letters",
        "time": datetime.fromtimestamp(NOW, UTC),
        "entity_id": "ada",
        "data": b'"hello"',
        **changes,
    }
    key, value, headers = events.encode(Event(**given))  # type: ignore[arg-type]
    return _message(value, headers, key=key)


def _translate(translator: Translator, message: Message) -> list[Entry]:
    tracker = OffsetTracker()
    tracker.assign([Partition("t", 0)])
    ticket = tracker.take(Partition("t", 0), 0)
    assert ticket
    return translator.translate(message, SharedTicket(ticket, 0))


def test_every_stage_of_the_topic_gets_a_task(translator: Translator) -> None:
    """With the ids that any replay gives, in the stage's own queue and group."""
    read, archive = _translate(translator, _event())
    assert (read.stage, read.destination, read.ordered) == ("read", "tasks.fifo", False)
    assert (archive.stage, archive.destination, archive.ordered) == ("archive", "slow.fifo", True)
    assert read.task
    assert archive.task
    assert read.task.deduplication_id == identity.task_id("/submit", "e-1", "read", None)
    assert archive.task.group_id == "ada"
    assert archive.lane == ("slow.fifo", "ada")
    assert read.lane is None


def test_only_the_topics_that_stages_read_are_consumed(translator: Translator) -> None:
    """By their name on Kafka."""
    assert translator.topics == {"my-letters": "letters", "my-words": "words"}


def test_the_event_is_out_with_the_last_task(translator: Translator) -> None:
    """Two stages share its ticket."""
    read, archive = _translate(translator, _event())
    assert read.ticket is archive.ticket
    assert [read.ticket.release(), archive.ticket.release()] == [False, True]


def test_a_first_event_opens_its_job(translator: Translator) -> None:
    """The job's id is the event's, always the same; its plan has all it can reach."""
    job = _translate(translator, _event())[0].job
    assert job
    assert job.job_id == identity.job_id("/submit", "e-1")
    assert (job.topic, job.entity_id) == ("letters", "ada")
    assert job.plan.terminals == {"count", "archive"}


def test_no_clock_hides_a_replay(translator: Translator) -> None:
    """The job was submitted no later than its event was written, whatever the event says."""
    for claimed, written, expected in (
        (NOW + 500, NOW - 1, NOW - 1),
        (NOW - 500, NOW - 1, NOW - 500),
        (None, NOW - 900, NOW - 900),
        (None, NOW + 900, NOW),
        (None, -0.001, NOW),
    ):
        message = _event(submitted_at=claimed)
        message = _message(message.value, message.headers, written=written)
        task = _translate(translator, message)[0].task
        assert task
        assert json.loads(task.body)["headers"]["pipeline"]["submitted_at"] == pytest.approx(expected)


@pytest.mark.parametrize("value", [None, b"", b"not json", b"\xff\xfe", b"[" * 5000])
def test_what_is_no_event_is_rejected_whole(translator: Translator, value: bytes | None) -> None:
    """One entry, with the record as it came."""
    (entry,) = _translate(translator, _message(value))
    assert entry.destination == REJECTED
    assert entry.rejection
    assert entry.rejection.error == "InvalidEventError"
    assert entry.source.value == value
    assert entry.ticket.release()


def test_a_key_or_header_that_nothing_can_hold_is_rejected(translator: Translator) -> None:
    """No record in the table, and no clock, takes these; what is recorded of the failure is cut."""
    named = (("ce_id", b"e-1"), ("ce_source", b"/shop"))
    (long,) = _translate(translator, _message(b"7", named, key=b"k" * 1_025))
    assert long.rejection
    assert "1025 characters" in long.rejection.message
    assert long.job
    assert len(long.job.entity_id) == 1_024
    (unread,) = _translate(translator, _message(b"7", ((events.UNREADABLE, b"not UTF-8"),)))
    assert unread.rejection
    assert "not UTF-8" in unread.rejection.message
    longest = _translate(translator, _message(b"7", key=b"k" * 1_024))
    assert [entry.rejection for entry in longest] == [None, None]


def test_a_header_of_a_redrive_in_no_time_is_nothing_of_ours(translator: Translator) -> None:
    """It was read where it is."""
    header = b'{"generation":1,"topic":"t","partition":0,"offset":0,"timestamp_ms":1' + b"0" * 400 + b"}"
    entries = _translate(translator, _message(b"7", ((events.REDRIVE, header),)))
    assert [entry.event and entry.event.generation for entry in entries] == [0, 0]


def test_a_rejected_first_event_fails_the_job_it_begins(translator: Translator) -> None:
    """The job gets a record, so that its failure is seen; one of a later event has its record."""
    named = (("ce_id", b"e-1"), ("ce_jobid", b"j-9"))
    (first,) = _translate(translator, _message(b"no json", (("ce_source", b"/shop"), *named)))
    assert first.job_id == identity.job_id("/shop", "e-1")
    assert first.job
    assert first.job.job_id == first.job_id
    emitted = (("ce_source", b"/post/read"), ("ce_stage", b"read"), *named)
    (later,) = _translate(translator, _message(b"no json", emitted, topic="my-words"))
    assert (later.job_id, later.job) == ("j-9", None)
    (wrong,) = _translate(translator, _message(b"no json", (("ce_id", b"\xff"), ("ce_source", b"/shop"))))
    assert (wrong.job_id, wrong.job) == (None, None)


def test_what_a_stage_of_this_service_emits_goes_on_with_its_job(translator: Translator) -> None:
    """Any other event begins one: of another service by a stage of that name, too, and all that name one."""
    words = {"type": "words", "job_id": "j-9", "stage": "read"}

    def job_of(source: str, event_id: str) -> tuple[str | None, bool]:
        sent = _event(**words, source=source, id=event_id)
        (entry,) = _translate(translator, replace(sent, topic="my-words"))
        assert entry.task
        header = json.loads(entry.task.body)["headers"]["pipeline"]
        assert header["job_id"] == entry.job_id
        return entry.job_id, entry.job is not None

    assert job_of("/post/read", "e-1") == ("j-9", False)
    assert job_of("/office/read", "e-1") == (identity.job_id("/office/read", "e-1"), True)
    assert job_of("/office/read", "e-2") == (identity.job_id("/office/read", "e-2"), True)


def test_an_event_older_than_all_records_is_rejected(translator: Translator) -> None:
    """Its counters may be gone and would count anew; nothing is opened for it."""
    event = _event()
    (old,) = _translate(translator, _message(event.value, event.headers, written=NOW - 46 * DAY))
    assert old.rejection
    assert "JOB_EXPIRY_DAYS" in old.rejection.message
    assert (old.job_id, old.job) == (identity.job_id("/submit", "e-1"), None)
    assert len(_translate(translator, _message(event.value, event.headers, written=NOW - 44 * DAY))) == 2


def test_a_redriven_event_is_as_old_as_it_was(translator: Translator) -> None:
    """Put back from the DLQ topic it has a new place and time on Kafka; its age is its own."""
    event = _event()

    def redriven(written: float) -> Entry:
        first = Redrive(
            generation=1, topic="my-letters", partition=0, offset=3, timestamp_ms=int(written * 1000)
        )
        return _translate(translator, _message(event.value, (*event.headers, first.header())))[0]

    assert redriven(NOW - 46 * DAY).rejection
    task = redriven(NOW - 9 * DAY).task
    assert task
    submitted_at = json.loads(task.body)["headers"]["pipeline"]["submitted_at"]
    assert submitted_at == pytest.approx(NOW - 9 * DAY)


def test_a_mistake_of_ours_blocks_no_partition(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong with one event, it is kept and the rest goes on."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr("pipeline.taskmessage.for_event", fail)
    (entry,) = _translate(translator, _event())
    assert entry.rejection
    assert entry.rejection.error == "ZeroDivisionError"
