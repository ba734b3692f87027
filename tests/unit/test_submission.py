"""Submitting: the record before the event, and an end for a job whose event was not acknowledged."""

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

import pytest

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.client.start import find_start
from pipeline.client.submission import (
    ANSWER_TIMEOUT,
    Submission,
    SubmittedJob,
    Submitter,
)
from pipeline.errors import (
    ConfigurationError,
    InvalidEventError,
    InvalidInputError,
    KeyConflictError,
    ServiceError,
    ServiceUnavailableError,
)
from pipeline.jobs import FailedTask, Job, JobState, JobStore, NewJob, Opened, Recorded, StageRef
from pipeline.jobs.deployments import Deployment
from pipeline.kafka import EventProducer, OutgoingRecord
from pipeline.settings import Settings, load_settings
from pipeline.wire import identity
from pipeline.wire.events import Coordinates, decode
from pipeline.wire.plans import Route

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
        self.records = self.tasks = self.deployments = self
        self.deployed: list[Deployment] = []
        self.calls: list[tuple[str, Any]] = []
        self.opened_before: dict[str, Job] = {}
        self.store_answers: dict[int, ServiceError] = {}
        self.kafka_answers: dict[int, ServiceError] = {}
        self.no_answer: ServiceError | None = None

    def all(self) -> list[Deployment]:
        return self.deployed

    def open(self, jobs: Sequence[NewJob]) -> Opened:
        self.calls += [("open", job) for job in jobs]
        answers = [self.store_answers.get(at) for at in range(len(jobs))]
        existing = self.opened_before.keys() & {job.job_id for job in jobs}
        return Opened(errors=answers, existing=frozenset(existing))

    def get_now(self, job_ids: Collection[str]) -> dict[str, Job]:
        return {job_id: self.opened_before[job_id] for job_id in job_ids}

    def mark_sent(self, job_ids: Iterable[str]) -> list[ServiceError]:
        self.calls += [("sent", job_id) for job_id in job_ids]
        return []

    def check_topic(self, topic: str, timeout: float) -> None:
        assert (topic, timeout) == ("test-order-placed", ANSWER_TIMEOUT)
        if self.no_answer:
            raise self.no_answer

    def emit(self, records: Sequence[OutgoingRecord], timeout: float) -> list[ServiceError | None]:
        self.calls += [("emit", record) for record in records]
        return [self.kafka_answers.get(at) for at in range(len(records))]

    def fail(self, failed: Sequence[FailedTask]) -> Recorded:
        self.calls += [("failed", each) for each in failed]
        return Recorded(errors=[None] * len(failed))

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
    named = dict(record.headers)
    assert opened.event == (named["ce_source"].decode(), named["ce_id"].decode())
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


def test_the_job_pins_the_plan_that_the_bridges_follow() -> None:
    """Another version may be deployed than the one that submits; the event names the plan."""
    wires = Wires()
    routes = (Route(name="price", consumes="order-placed"), Route(name="newer", consumes="order-placed"))
    wires.deployed = [Deployment(id="v2", routes=routes, first_at=time.time(), seen_at=time.time())]
    make_submitter(wires).submit([Submission(data=b'{"order": 1}')])
    opened, record = wires.of("open")[0], wires.of("emit")[0]
    assert list(opened.plan.stages) == ["price", "newer"]
    assert dict(record.headers)["ce_planid"] == opened.plan.id.encode()


def test_the_same_data_twice_is_two_jobs() -> None:
    """Each submission is meant."""
    one, two = make_submitter(Wires()).submit([Submission(data=b"{}")] * 2)
    assert isinstance(one, SubmittedJob)
    assert isinstance(two, SubmittedJob)
    assert one.job_id != two.job_id


KEYED = Submission(data=b'{"order": 1}', key="order-17")


def begun(wires: Wires, submission: Submission = KEYED, *, sent: bool = False, state: str = "running") -> Job:
    """The job of a submission as an earlier one left it."""
    make_submitter(wires).submit([submission])
    new = wires.of("open")[0]
    wires.calls.clear()
    job = Job(
        job_id=new.job_id,
        state=JobState(state),
        entity_id=new.entity_id,
        topic=new.topic,
        plan=new.plan,
        submitted_at=17.0,
        updated_at=17.0,
        digest=new.digest,
        is_sent=sent,
    )
    wires.opened_before[job.job_id] = job
    return job


def test_a_key_names_one_job() -> None:
    """The ids of job and event follow from service, topic and key; without a key they are new."""
    one, two = (make_submitter(Wires()).submit([KEYED])[0] for _ in range(2))
    other = make_submitter(Wires(), "bill").check
    other(Submission(data=b"1", key="order-17"))
    assert isinstance(one, SubmittedJob)
    assert isinstance(two, SubmittedJob)
    assert (one.job_id, one.event_id, one.entity_id) == (two.job_id, two.event_id, two.entity_id)
    assert one.event_id == identity.submitted_event_id("/shop/submit", "order-placed", "order-17")
    assert one.job_id == identity.job_id("/shop/submit", one.event_id)


def test_a_job_with_a_key_is_marked_when_its_event_is_acknowledged() -> None:
    """The mark comes last: without it the event is sent again."""
    wires = Wires()
    (job,) = make_submitter(wires).submit([KEYED])
    assert isinstance(job, SubmittedJob)
    assert [name for name, _ in wires.calls] == ["open", "emit", "sent"]
    assert wires.of("sent") == [job.job_id]
    assert not job.existed


@pytest.mark.parametrize(
    ("sent", "state"), [(True, "running"), (False, "complete"), (False, "failed"), (False, "cancelled")]
)
def test_a_key_that_has_a_job_starts_no_other(sent: bool, state: str) -> None:
    """The same job is returned; no event is sent for one that has its event, or has ended."""
    wires = Wires()
    before = begun(wires, sent=sent, state=state)
    (job,) = make_submitter(wires).submit([KEYED])
    assert isinstance(job, SubmittedJob)
    assert (job.job_id, job.submitted_at, job.existed) == (before.job_id, 17.0, True)
    assert wires.of("emit") == wires.of("sent") == []


def test_a_job_that_lacks_its_event_gets_the_same_again() -> None:
    """A submitter that died before the acknowledgement is made good by the next one, under the same ids."""
    wires = Wires()
    before = begun(wires)
    newer = (Route(name="newer", consumes="order-placed"),)
    wires.deployed = [Deployment(id="v2", routes=newer, first_at=time.time(), seen_at=time.time())]
    (job,) = make_submitter(wires).submit([Submission(data=b'{ "order":1 }', key="order-17")])
    (record,) = wires.of("emit")
    headers = dict(record.headers)
    assert isinstance(job, SubmittedJob)
    assert headers["ce_jobid"].decode() == before.job_id == job.job_id
    assert headers["ce_submittedat"] == b"17.0"
    assert headers["ce_planid"].decode() == before.plan.id
    assert wires.of("sent") == [before.job_id]


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize(
    "other",
    [
        Submission(data=b'{"order": 2}', key="order-17"),
        Submission(data=b'{"order": 1}', key="order-17", entity_id="ada"),
    ],
)
def test_a_key_cannot_name_something_else(other: Submission, sent: bool) -> None:
    """Other data or another entity under a key is an error that names the job, and nothing is sent."""
    wires = Wires()
    before = begun(wires, sent=sent)
    (answer,) = make_submitter(wires).submit([other])
    assert isinstance(answer, KeyConflictError)
    assert before.job_id in str(answer)
    assert wires.of("emit") == []


def test_a_key_twice_in_one_batch_is_one_job() -> None:
    """The first counts; the second is the same job, or a conflict."""
    wires = Wires()
    other = Submission(data=b'{"order": 2}', key="order-17")
    one, again, conflict = make_submitter(wires).submit([KEYED, KEYED, other])
    assert isinstance(one, SubmittedJob)
    assert isinstance(again, SubmittedJob)
    assert (one.job_id, one.existed) == (again.job_id, not again.existed)
    assert isinstance(conflict, KeyConflictError)
    assert len(wires.of("open")) == len(wires.of("emit")) == 1


def test_a_job_with_a_key_stays_open_without_its_event() -> None:
    """It is not recorded as failed: the next submission sends the event, and the error says so."""
    wires = Wires()
    wires.kafka_answers = {0: AWAY}
    (answer,) = make_submitter(wires).submit([KEYED])
    assert isinstance(answer, ServiceUnavailableError)
    assert "Submit it again with the key 'order-17'" in str(answer)
    assert wires.of("failed") == wires.of("sent") == []


@pytest.mark.parametrize("key", ["", "x" * 1_025])
def test_a_key_that_names_nothing_is_found_before(key: str) -> None:
    """Nothing is written."""
    with pytest.raises(InvalidEventError, match="1 to 1,024"):
        make_submitter(Wires()).check(Submission(data=b"{}", key=key))


def test_a_caller_without_the_code_starts_what_bridges_run() -> None:
    """A name that no stage at hand has is looked for in what the bridges of the service announced."""
    wires = Wires()
    routes = (Route(name="price", consumes="order-placed"),)
    wires.deployed = [Deployment(id="v1", routes=routes, first_at=1.0, seen_at=1.0)]
    submitter = Submitter(
        SETTINGS, Registry(), cast(JobStore, wires), cast(EventProducer, wires), "price", asks_bridges=True
    )
    submitter.check(Submission(data=b'{"order": 1}'))
    (job,) = submitter.submit([Submission(data=b'{"order": 1}')])
    assert isinstance(job, SubmittedJob)
    assert list(wires.of("open")[0].plan.stages) == ["price"]
    with pytest.raises(InvalidEventError, match="1,04"):
        submitter.check(Submission(data=b" " * 2_000_000 + b"7"))


def test_a_job_without_record_is_not_started() -> None:
    """A job that DynamoDB refused has no event; the others continue."""
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
    assert isinstance(answers[0], ServiceUnavailableError)
    assert isinstance(answers[1], SubmittedJob)
    job_id = wires.of("open")[0].job_id
    assert str(answers[0]).startswith(f"Job {job_id} is recorded as failed")
    assert [failed.ref for failed in wires.of("failed")] == [
        StageRef(job_id=job_id, stage="price"),
        StageRef(job_id=job_id, stage="audit"),
    ]


@pytest.mark.parametrize(("name", "topic"), [("price", "order-placed"), ("order-priced", "order-priced")])
def test_a_start_is_a_stage_or_a_topic(name: str, topic: str) -> None:
    """Either name leads to the topic."""
    assert find_start(make_registry(), name).topic == topic


def test_an_unknown_start_lists_the_known() -> None:
    """The mend is in the message."""
    with pytest.raises(InvalidEventError) as caught:
        find_start(make_registry(), "prize")
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


@pytest.mark.parametrize(
    ("entity", "reason"),
    [
        ("", "is empty"),
        ("x" * 1_025, "1,025 characters and may have 1,024"),
        ("a\nb", "printable"),
        ("\udcff", "use printable"),
    ],
)
def test_an_entity_that_no_event_can_have_is_found_before(entity: str, reason: str) -> None:
    """An empty entity is a mistake, not an entity of the job's own."""
    with pytest.raises(InvalidEventError, match=reason):
        make_submitter(Wires()).check(Submission(data=b'{"order": 1}', entity_id=entity))
    make_submitter(Wires()).check(Submission(data=b'{"order": 1}', entity_id="x" * 1_024))


@pytest.mark.parametrize("sqs", [True, False])
def test_data_that_fits_no_message_is_found_before(sqs: bool) -> None:
    """2 MB are too large for SQS; without SQS there is no message."""
    settings = SETTINGS.model_copy(update={"use_sqs_task_processing": sqs})
    wires = Wires()
    submitter = Submitter(
        settings, make_registry(), cast(JobStore, wires), cast(EventProducer, wires), "order-priced"
    )
    large = Submission(data=b" " * 2_000_000 + b"7")
    if sqs:
        with pytest.raises(InvalidEventError, match=r"2,00\d,\d{3} bytes, and SQS takes 1,04"):
            submitter.check(large)
    else:
        submitter.check(large)
    submitter.check(Submission(data=b" " * 1_000_000 + b"7"))


def test_nothing_is_written_without_kafka() -> None:
    """A dead Kafka is found before a job is opened, so no failed job is left."""
    wires = Wires()
    wires.no_answer = AWAY
    with pytest.raises(ServiceUnavailableError, match="away"):
        make_submitter(wires).submit([Submission(data=b"{}")])
    assert wires.calls == []


def test_nothing_is_submitted_where_two_topics_are_one() -> None:
    """Its error event would come back as a task, which fails, for ever: refused before a job is opened."""
    settings = SETTINGS.model_copy(update={"topics": {"ERRORS": "test-order-placed"}})
    wires = Wires()
    with pytest.raises(ConfigurationError, match=r"KAFKA_TOPIC_ORDER_PLACED.*KAFKA_TOPIC_ERRORS"):
        Submitter(settings, make_registry(), cast(JobStore, wires), cast(EventProducer, wires), "price")
    assert wires.calls == []
