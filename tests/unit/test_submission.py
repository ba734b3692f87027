"""Submitting: the record before the event, and an end for a job whose event was not acknowledged."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from config.settings import Settings, load_settings
from pipeline import identity
from pipeline.errors import (
    ConfigurationError,
    InvalidEventError,
    InvalidInputError,
    ServiceError,
    ServiceUnavailableError,
)
from pipeline.events import Coordinates, decode
from pipeline.jobs import Failed, JobStore, NewJob, StageRef
from pipeline.kafka import EventProducer, Record
from pipeline.stages import Registry, stage
from pipeline.submission import Submission, SubmittedJob, Submitter, start_topic

SETTINGS: Settings = load_settings(
    {
        "SERVICE_NAME": "shop",
        "KAFKA_BOOTSTRAP_SERVERS": "nowhere:1",
        "KAFKA_CONSUMER_GROUP": "shop",
        "SQS_TASK_QUEUE_URL": "http://nowhere/1/tasks.fifo",
        "SQS_DLQ_URL": "http://nowhere/1/dlq.fifo",
        "TOPIC_PREFIX": "test-",
    }
)
AWAY = ServiceUnavailableError("away")


class Wires:
    """The job store and the producer: what was asked of them, in order, and what they answer."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.store_answers: dict[int, ServiceError] = {}
        self.kafka_answers: dict[int, ServiceError] = {}

    def open_jobs(self, jobs: Sequence[NewJob]) -> list[bool | ServiceError]:
        self.calls += [("open", job) for job in jobs]
        return [self.store_answers.get(at, True) for at in range(len(jobs))]

    def emit(self, records: Sequence[Record], timeout: float) -> list[ServiceError | None]:
        self.calls += [("emit", record) for record in records]
        return [self.kafka_answers.get(at) for at in range(len(records))]

    def record_failed(self, failed: Sequence[Failed]) -> None:
        self.calls += [("failed", each) for each in failed]

    def of(self, kind: str) -> list[Any]:
        return [value for name, value in self.calls if name == kind]


def make_registry() -> Registry:
    registry = Registry()

    @stage(consumes="order-placed", emits="order-priced", registry=registry)
    def price(data: dict[str, int]) -> int:
        return data["order"]

    @stage(consumes="order-placed", registry=registry)
    def audit(data: dict[str, int]) -> None: ...

    @stage(consumes="order-priced", registry=registry)
    def bill(data: int) -> None: ...

    return registry


def make_submitter(wires: Wires, start: str = "price") -> Submitter:
    return Submitter(SETTINGS, make_registry(), cast(JobStore, wires), cast(EventProducer, wires), start)


def test_the_record_is_written_before_the_event() -> None:
    """A job that a worker can see is in the list of jobs."""
    wires = Wires()
    (job,) = make_submitter(wires).submit([Submission(data=b'{"order": 1}', entity_id="customer-7")])
    assert isinstance(job, SubmittedJob)
    assert [name for name, _ in wires.calls] == ["open", "emit"]
    opened, record = wires.of("open")[0], wires.of("emit")[0]
    assert (opened.job_id, opened.entity_id, opened.topic) == (job.job_id, "customer-7", "order-placed")
    assert opened.plan.terminals == {"audit", "bill"}
    assert record.topic == "test-order-placed"


def test_the_event_carries_its_job() -> None:
    """The bridge finds the job that was opened, and how old it is."""
    wires = Wires()
    (job,) = make_submitter(wires).submit([Submission(data=b'{"order": 1}')])
    record, at = wires.of("emit")[0], Coordinates(topic="t", partition=0, offset=0, timestamp_ms=0)
    event = decode(key=record.key, value=record.value, headers=record.headers, coordinates=at)
    assert isinstance(job, SubmittedJob)
    assert (event.job_id, event.submitted_at, event.id) == (job.job_id, job.submitted_at, job.event_id)
    assert event.job_id == identity.job_id(event.source, event.id)
    assert (event.entity_id, event.stage, event.data) == (job.event_id, None, b'{"order": 1}')


def test_the_same_data_twice_is_two_jobs() -> None:
    """Each submission is meant."""
    one, two = make_submitter(Wires()).submit([Submission(data=b"{}")] * 2)
    assert isinstance(one, SubmittedJob)
    assert isinstance(two, SubmittedJob)
    assert one.job_id != two.job_id


def test_a_job_without_record_is_not_started() -> None:
    """What DynamoDB did not take has no event, and the others go their way."""
    wires = Wires()
    wires.store_answers = {1: AWAY}
    answers = make_submitter(wires).submit([Submission(data=b"{}")] * 3)
    assert answers[1] is AWAY
    assert len(wires.of("emit")) == 2
    assert [answer.job_id for answer in answers if isinstance(answer, SubmittedJob)] == [
        wires.of("open")[0].job_id,
        wires.of("open")[2].job_id,
    ]


def test_a_job_without_event_does_not_run_for_ever() -> None:
    """A job whose event Kafka did not take ends as failed, at every stage it was to start with."""
    wires = Wires()
    wires.kafka_answers = {0: AWAY}
    answers = make_submitter(wires).submit([Submission(data=b"{}")] * 2)
    assert answers[0] is AWAY
    assert isinstance(answers[1], SubmittedJob)
    job_id = wires.of("open")[0].job_id
    assert [failed.ref for failed in wires.of("failed")] == [
        StageRef(job_id=job_id, stage="price"),
        StageRef(job_id=job_id, stage="audit"),
    ]


@pytest.mark.parametrize(("name", "topic"), [("price", "order-placed"), ("order-priced", "order-priced")])
def test_a_start_is_a_stage_or_a_topic(name: str, topic: str) -> None:
    """Either name leads to the topic."""
    assert start_topic(make_registry(), name) == topic


def test_an_unknown_start_lists_the_known() -> None:
    """The mend is in the message."""
    with pytest.raises(InvalidEventError) as caught:
        start_topic(make_registry(), "prize")
    assert "'prize'" in str(caught.value)
    assert "Stages: audit, bill, price. Topics: order-placed, order-priced." in str(caught.value)


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"{", InvalidEventError), (b"", InvalidEventError), (b'{"order": "x"}', InvalidInputError)],
)
def test_what_could_only_fail_is_found_before(data: bytes, error: type[Exception]) -> None:
    """Data that is not JSON, or not what a stage takes, is refused before anything is written."""
    with pytest.raises(error):
        make_submitter(Wires()).check(Submission(data=data))


def test_nothing_is_submitted_where_two_topics_are_one() -> None:
    """Its error event would come back as a task, which fails, for ever: refused before a job is opened."""
    settings = SETTINGS.model_copy(update={"topics": {"ERRORS": "test-order-placed"}})
    wires = Wires()
    with pytest.raises(ConfigurationError, match=r"KAFKA_TOPIC_ORDER_PLACED.*KAFKA_TOPIC_ERRORS"):
        Submitter(settings, make_registry(), cast(JobStore, wires), cast(EventProducer, wires), "price")
    assert wires.calls == []
