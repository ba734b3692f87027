"""An event becomes a task for each stage that consumes its topic, or a rejection with its reason."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import pytest

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.translator import EventTasks, Rejection, Translator
from pipeline.kafka import Headers, ReceivedRecord
from pipeline.settings import Settings
from pipeline.wire import events, identity
from pipeline.wire.events import Event, Redrive, record_digest
from pipeline.wire.plans import JobPlan, dump_routes
from pipeline.wire.references import Reference
from pipeline.wire.taskmessage import data_of

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


SETTINGS = Settings(
    service_name="post",
    topic_prefix="my-",
    kafka_bootstrap_servers="unused",
    kafka_consumer_group="post",
    sqs_task_queue_url="https://sqs/1/tasks.fifo",
    sqs_dlq_url="https://sqs/1/dlq.fifo",
)


@pytest.fixture
def translator(registry: Registry) -> Translator:
    return Translator(SETTINGS, KnownPlans(registry.routes), registry.consumed_topics, clock=lambda: NOW)


def _message(
    value: bytes | None,
    headers: Headers = (),
    *,
    topic: str = "my-letters",
    key: bytes | None = b"ada",
    written: float = NOW - 1,
) -> ReceivedRecord:
    return ReceivedRecord(
        topic=topic,
        partition=2,
        offset=7,
        timestamp_ms=int(written * 1000),
        key=key,
        value=value,
        headers=headers,
    )


def _event(**changes: object) -> ReceivedRecord:
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


def _tasks(translator: Translator, record: ReceivedRecord) -> EventTasks:
    (tasks,) = translator.translate(record)
    assert isinstance(tasks, EventTasks)
    return tasks


def _rejection(translator: Translator, record: ReceivedRecord) -> Rejection:
    (rejection,) = translator.translate(record)
    assert isinstance(rejection, Rejection)
    return rejection


def _submitted_at(tasks: EventTasks) -> float:
    submitted_at: float = tasks.tasks[0][1].headers["pipeline"]["submitted_at"]
    return submitted_at


def test_every_stage_of_the_topic_gets_a_task(translator: Translator) -> None:
    """With the ids that any replay gives, in the stage's own queue and group."""
    (read, first), (archive, second) = _tasks(translator, _event()).tasks
    assert (read.name, first.queue, read.ordered) == ("read", None, False)
    assert (archive.name, second.queue, archive.ordered) == ("archive", "slow.fifo", True)
    assert first.deduplication_id == identity.task_id("/submit", "e-1", "read", None)
    assert second.group_id == "ada"


def test_the_same_record_gives_the_same_tasks(translator: Translator) -> None:
    """Translation changes nothing and depends on nothing but the record."""
    assert _tasks(translator, _event()) == _tasks(translator, _event())


def test_only_the_topics_that_stages_read_are_consumed(translator: Translator) -> None:
    """By their name on Kafka."""
    assert translator.topics == ("my-letters", "my-words")


def test_a_first_event_opens_its_job(translator: Translator) -> None:
    """The job's id is the event's, always the same; its plan has all it can reach."""
    job = _tasks(translator, _event()).job
    assert job
    assert job.job_id == identity.job_id("/submit", "e-1")
    assert (job.topic, job.entity_id, job.event) == ("letters", "ada", ("/submit", "e-1"))
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
        assert _submitted_at(_tasks(translator, message)) == pytest.approx(expected)


@pytest.mark.parametrize("value", [b"", b"not json", b"\xff\xfe", b"[" * 5000])
def test_what_is_no_event_is_rejected_whole(translator: Translator, value: bytes | None) -> None:
    """With the record as it came."""
    rejection = _rejection(translator, _message(value))
    assert rejection.error == "InvalidEventError"
    assert rejection.record.value == value


def test_a_tombstone_is_passed_over_unless_a_stage_asks_for_it(
    translator: Translator, registry: Registry
) -> None:
    """Whatever its headers are; then it has null as its data, and a job of only the stages that ask."""
    assert translator.translate(_message(None)) == []
    assert translator.translate(_message(None, (("ce_id", b"\xff"),))) == []

    @stage(consumes="letters", emits="gone", tombstones=True, registry=registry)
    def forget(letter: str | None) -> str:
        return letter or ""

    plans = KnownPlans(registry.routes)
    asking = Translator(translator._settings, plans, plans.topics, clock=lambda: NOW)
    content = _tasks(asking, _message(None))
    assert [(stage.name, data_of(task.body)) for stage, task in content.tasks] == [("forget", "null")]
    assert content.job
    assert set(content.job.plan.stages) == {"forget"}
    assert [stage.name for stage, _ in _tasks(asking, _message(b'"hello"')).tasks] == [
        "read",
        "archive",
        "forget",
    ]


def test_a_key_or_header_that_nothing_can_hold_is_rejected(translator: Translator) -> None:
    """No record in the table, and no clock, takes these; what is recorded of the failure is cut."""
    named = (("ce_id", b"e-1"), ("ce_source", b"/shop"))
    long = _rejection(translator, _message(b"7", named, key=b"k" * 1_025))
    assert "1025 characters" in long.message
    assert long.job
    assert len(long.job.entity_id) == 1_024
    unread = _rejection(translator, _message(b"7", ((events.UNREADABLE, b"not UTF-8"),)))
    assert "not UTF-8" in unread.message
    assert len(_tasks(translator, _message(b"7", key=b"k" * 1_024)).tasks) == 2


def test_a_header_of_a_redrive_in_no_time_is_nothing_of_ours(translator: Translator) -> None:
    """It was read where it is."""
    header = b'{"generation":1,"topic":"t","partition":0,"offset":0,"timestamp_ms":1' + b"0" * 400 + b"}"
    assert _tasks(translator, _message(b"7", ((events.REDRIVE, header),))).event.generation == 0


def test_a_rejected_first_event_fails_the_job_it_begins(translator: Translator) -> None:
    """The job gets a record, so that its failure is seen; one of a later event has its record."""
    named = (("ce_id", b"e-1"), ("ce_jobid", b"j-9"))
    first = _rejection(translator, _message(b"no json", (("ce_source", b"/shop"), *named)))
    assert first.job_id == identity.job_id("/shop", "e-1")
    assert first.job
    assert first.job.job_id == first.job_id
    emitted = (("ce_source", b"/post/read"), ("ce_stage", b"read"), ("ce_type", b"words"), *named)
    later = _rejection(translator, _message(b"no json", emitted, topic="my-words"))
    assert (later.job_id, later.job) == ("j-9", None)
    wrong = _rejection(translator, _message(b"no json", (("ce_id", b"\xff"), ("ce_source", b"/shop"))))
    assert (wrong.job_id, wrong.job) == (None, None)


def test_what_a_stage_of_this_service_emits_goes_on_with_its_job(
    translator: Translator, registry: Registry
) -> None:
    """Any other event begins one: of another service by a stage of that name, too, and all that name one."""
    words = {"type": "words", "job_id": "j-9", "stage": "read", "plan_id": registry.plan("letters").id}

    def job_of(source: str, event_id: str) -> tuple[str | None, bool]:
        sent = _event(**words, source=source, id=event_id)
        tasks = _tasks(translator, replace(sent, topic="my-words"))
        assert [task.headers["pipeline"]["job_id"] for _, task in tasks.tasks] == [tasks.job_id]
        return tasks.job_id, tasks.job is not None

    assert job_of("/post/read", "e-1") == ("j-9", False)
    assert job_of("/office/read", "e-1") == (identity.job_id("/office/read", "e-1"), True)
    assert job_of("/office/read", "e-2") == (identity.job_id("/office/read", "e-2"), True)


def test_a_job_id_that_was_carried_to_another_topic_is_not_believed(translator: Translator) -> None:
    """A stream processor keeps headers: each event that it makes of a stage's begins a job of its own."""
    emitted = {"type": "words", "job_id": "j-9", "stage": "read", "source": "/post/read"}
    copies = [_tasks(translator, _event(**emitted, id=f"copy-{n}")) for n in range(5)]
    assert [copy.job_id for copy in copies] == [identity.job_id("/post/read", f"copy-{n}") for n in range(5)]
    assert all(copy.job for copy in copies)
    rejected = _rejection(translator, _message(b"no json", _event(**emitted, id="copy").headers))
    assert rejected.job_id == identity.job_id("/post/read", "copy")


def test_an_event_older_than_all_records_is_rejected(translator: Translator) -> None:
    """Its counters may be gone and would count anew; nothing is opened for it."""
    event = _event()
    old = _rejection(translator, _message(event.value, event.headers, written=NOW - 46 * DAY))
    assert "JOB_EXPIRY_DAYS" in old.message
    assert (old.job_id, old.job) == (identity.job_id("/submit", "e-1"), None)
    assert len(_tasks(translator, _message(event.value, event.headers, written=NOW - 44 * DAY)).tasks) == 2


def test_a_redriven_event_is_as_old_as_it_was(translator: Translator) -> None:
    """Put back from the DLQ topic it has a new place and time on Kafka; its age is its own."""
    event = _event()

    def redriven(written: float) -> ReceivedRecord:
        first = Redrive(
            generation=1,
            topic="my-letters",
            partition=0,
            offset=3,
            timestamp_ms=int(written * 1000),
            digest=record_digest("my-letters", b"ada", event.value),
        )
        return _message(event.value, (*event.headers, first.header()))

    assert _rejection(translator, redriven(NOW - 46 * DAY))
    assert _submitted_at(_tasks(translator, redriven(NOW - 9 * DAY))) == pytest.approx(NOW - 9 * DAY)


def test_a_mistake_of_ours_blocks_no_partition(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong with one event, it is kept and the rest goes on."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr("pipeline.wire.taskmessage.for_event", fail)
    assert _rejection(translator, _event()).error == "ZeroDivisionError"


# ─── Two versions at once ───


def test_an_event_feeds_the_stages_of_its_jobs_plan(translator: Translator, registry: Registry) -> None:
    """A stage that was added since gets no task of a job whose plan does not have it."""
    job = {"type": "words", "job_id": "j-9", "stage": "read", "source": "/post/read"}
    letters = registry.plan("letters")
    full = _tasks(translator, replace(_event(**job, plan_id=letters.id), topic="my-words"))
    assert [route.name for route, _ in full.tasks] == ["count"]
    assert full.tasks[0][1].headers["pipeline"]["plan"] == letters.id
    assert full.is_certain
    before = JobPlan.read([["read", ["read"]]], dump_routes([letters.routes["read"]]))
    known = KnownPlans(registry.routes)
    known.follow(registry.routes, [[replace(letters.routes["read"])]])
    assert known.find(before.id) == before
    old = Translator(translator._settings, known, registry.consumed_topics, clock=lambda: NOW)
    assert _tasks(old, replace(_event(**job, plan_id=before.id), topic="my-words")).tasks == ()


def test_a_plan_that_is_not_known_is_asked_of_the_record(translator: Translator) -> None:
    """An event of a version before plans, or of one never deployed here, is not guessed at."""
    job = {"type": "words", "job_id": "j-9", "stage": "read", "source": "/post/read"}
    for plan_id in (None, "0" * 16):
        tasks = _tasks(translator, replace(_event(**job, plan_id=plan_id), topic="my-words"))
        assert (tasks.plan, tasks.tasks, tasks.is_certain) == (None, (), False)


def test_a_foreign_event_cannot_choose_a_plan_that_begins_elsewhere(
    translator: Translator, registry: Registry
) -> None:
    """Its job would wait for stages that nothing reaches."""
    foreign = replace(_event(plan_id=registry.plan("letters").id, source="/office"), topic="my-words")
    tasks = _tasks(translator, foreign)
    assert tasks.job is not None
    assert list(tasks.job.plan.stages) == ["count"]


def test_a_topic_left_behind_begins_no_job(translator: Translator, registry: Registry) -> None:
    """Its events go on with open jobs only."""
    known = KnownPlans(registry.routes)
    known.follow([route for route in registry.routes if route.name != "count"], [])
    left = Translator(translator._settings, known, registry.consumed_topics, clock=lambda: NOW)
    tasks = _tasks(left, replace(_event(source="/office"), topic="my-words"))
    assert (tasks.job, tasks.tasks) == (None, ())


def _large(bucket: str, role: Literal["task", "event", "part", "result"] = "event") -> ReceivedRecord:
    reference = Reference.to(b'"a"', service="other", role=role, id="e-1")
    return _event(data=b"", reference=reference, bucket=bucket)


def test_data_on_s3_is_not_fetched_but_named_in_the_task(registry: Registry) -> None:
    """Also of another service, in the bucket that they share."""
    settings = SETTINGS.model_copy(update={"payload_bucket": "payloads"})
    known = Translator(settings, KnownPlans(registry.routes), registry.consumed_topics, clock=lambda: NOW)
    tasks = _tasks(known, _large("payloads"))
    assert [message.is_referenced for _, message in tasks.tasks] == [True, True]


@pytest.mark.parametrize("role", ["task", "part", "result"])
def test_data_of_a_task_is_no_event(registry: Registry, role: Literal["task", "part", "result"]) -> None:
    """It is not what its producer emitted."""
    settings = SETTINGS.model_copy(update={"payload_bucket": "payloads"})
    known = Translator(settings, KnownPlans(registry.routes), registry.consumed_topics, clock=lambda: NOW)
    assert "PAYLOAD_BUCKET=payloads only" in _rejection(known, _large("payloads", role)).message


def test_data_in_another_bucket_is_not_believed(registry: Registry, translator: Translator) -> None:
    """The reason names the setting; a service without a bucket is told that it needs one."""
    settings = SETTINGS.model_copy(update={"payload_bucket": "payloads"})
    known = Translator(settings, KnownPlans(registry.routes), registry.consumed_topics, clock=lambda: NOW)
    assert "PAYLOAD_BUCKET=payloads only" in _rejection(known, _large("secrets")).message
    assert "PAYLOAD_BUCKET is not set" in _rejection(translator, _large("payloads")).message
