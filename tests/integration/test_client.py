"""The client on real services, without a bridge and a worker: what these would record is written here."""

import asyncio
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection

import pytest
from pydantic import BaseModel

from pipeline import (
    AsyncClient,
    Client,
    InvalidEventError,
    InvalidInputError,
    JobCancelledError,
    JobFailedError,
    JobHandle,
    JobState,
    KeyConflictError,
    ResultNotKeptError,
    ServiceError,
    UnknownJobError,
    stage,
)
from pipeline.jobs import FailedTask, JobFilled, JobStore, StageDone, StageRef
from pipeline.kafka import newest_records
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from pipeline.wire.plans import Route
from tests.conftest import MakeEnvironment
from tests.processes import PATIENCE


class Sale(BaseModel):
    """An article sold."""

    article: str
    amount: int


class Bill(BaseModel):
    """The sum to be paid."""

    total: int


@stage(consumes="client-sales", emits="client-bills")
def bill(sale: Sale) -> Bill:
    """Price a sale."""
    return Bill(total=10 * sale.amount)


@stage(consumes="client-lists")
def count(sale: Sale) -> int:
    """Count the articles of a sale."""
    return sale.amount


@count.split
def sales(day: list[Sale]) -> Iterator[Sale]:
    """Divide a day."""
    yield from day


@count.gather
def total(day: list[Sale], counts: Iterable[int]) -> int:
    """Add up a day."""
    return sum(counts)


@pytest.fixture
def environment(
    embedded_services: Services, make_environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The variables of a service of its own, whose table exists."""
    environment = make_environment(embedded_services)
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    JobStore(load_settings(environment)).schema.provision()
    return environment


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    return load_settings(environment)


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[Client]:
    with Client(environment) as client:
        yield client


def events(settings: Settings, topic: str) -> list[bytes]:
    """The ids of the events on a topic."""
    records = newest_records(settings, settings.topic(topic), 100)
    return [dict(record.headers)["ce_id"] or b"" for record in records]


def end(settings: Settings, job_id: str, stage: str = "bill", result: str | None = None) -> None:
    """Record a stage as done, as a worker would."""
    store = JobStore(settings)
    done = StageDone(
        ref=StageRef(job_id=job_id, stage=stage),
        task_id="t",
        ends_path=True,
        run_seconds=0.5,
        finished_at=time.time(),
        worker="w",
        result=result,
    )
    (closing,) = store.tasks.record([done]).closings
    assert isinstance(closing, JobFilled)
    assert store.close([closing]) == [None]


def test_a_submission_is_a_job_and_an_event(client: Client, settings: Settings) -> None:
    """It runs, and another client finds it by its id."""
    handle = client.submit(bill, Sale(article="chair", amount=2), entity="ada")
    assert handle.status() is JobState.RUNNING
    job = JobStore(settings).records.get(handle.id)
    assert job is not None
    assert (job.entity_id, job.topic) == ("ada", "client-sales")
    assert job.event is not None
    assert events(settings, "client-sales") == [job.event[1].encode()]
    assert client.handle(handle.id).status() is JobState.RUNNING


def test_a_split_takes_the_data_of_its_event(client: Client) -> None:
    """By the split's function, by the stage and by its name; data of another type is refused at once."""
    day = [Sale(article="chair", amount=2)]
    handles = [client.submit(sales, day), client.submit("count", day), client.submit("client-lists", day)]
    assert [handle.status() for handle in handles] == [JobState.RUNNING] * 3
    with pytest.raises(InvalidInputError, match="the data is not list"):
        client.submit(sales, 3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="the data is not list"):
        client.submit("count", 3)
    with pytest.raises(TypeError, match="is no stage"):
        client.submit(total, day)  # type: ignore[arg-type]


def test_a_key_is_one_job_whoever_submits(
    client: Client, environment: dict[str, str], settings: Settings
) -> None:
    """A second client, at once or later, gets the same handle, and there is one event."""
    sale = Sale(article="chair", amount=2)
    one = client.submit(bill, sale, key="order-17")
    with Client(environment) as other:
        two = other.submit("bill", {"amount": 2, "article": "chair"}, key="order-17")
        assert (one.id, one.existed, two.existed) == (two.id, False, True)
        with pytest.raises(KeyConflictError, match=one.id):
            other.submit(bill, Sale(article="chair", amount=3), key="order-17")
    end(settings, one.id)
    assert client.submit(bill, sale, key="order-17").wait(0) is JobState.COMPLETE
    assert len(events(settings, "client-sales")) == 1


def test_many_at_once_answer_one_by_one(client: Client, settings: Settings) -> None:
    """Keys and entities are functions of the item; a conflict is the answer of its item alone."""
    items = [Sale(article=f"a{n % 3}", amount=n) for n in range(4)]
    answers = client.submit_many(
        bill, items, entity=lambda sale: f"{sale.article}-buyers", key=lambda sale: sale.article
    )
    assert [type(answer) for answer in answers] == [JobHandle, JobHandle, JobHandle, KeyConflictError]
    assert len(events(settings, "client-sales")) == 3
    with pytest.raises(InvalidInputError):
        client.submit_many("bill", [{"article": "b", "amount": 1}, {"article": "b"}])
    assert len(events(settings, "client-sales")) == 3


def test_the_result_of_the_last_stage_is_returned(client: Client, settings: Settings) -> None:
    """As JSON, or decoded by the stage; nothing where it returned nothing."""
    handles = [client.submit(bill, Sale(article="chair", amount=2)) for _ in range(3)]
    for handle, result in zip(handles, ['{"total":20}', None, f'{{"total":{"2" * 1_100}}}'], strict=True):
        end(settings, handle.id, result=result)
    good, empty, large = handles
    assert good.result(PATIENCE) == {"total": 20}
    assert good.result(stage=bill) == Bill(total=20)
    assert empty.result() is None
    with pytest.raises(ResultNotKeptError, match=r"1,110 bytes.*on topic 'client-bills'"):
        large.result()
    with pytest.raises(ResultNotKeptError, match=r"no stage 'count'\. It has: bill"):
        good.result(stage=count)


def test_a_job_without_a_result_says_why(client: Client, settings: Settings) -> None:
    """Failed, cancelled, unknown, or still running: each is an error of its own."""
    failed, cancelled, running = (client.submit(bill, Sale(article="chair", amount=2)) for _ in range(3))
    ref = StageRef(job_id=failed.id, stage="bill")
    failure = FailedTask(
        ref=ref, task_id="t", error="shop.NoPrice", message="no chair", attempts=4, failed_at=time.time()
    )
    JobStore(settings).tasks.fail([failure])
    with pytest.raises(JobFailedError) as caught:
        failed.result(PATIENCE)
    assert (caught.value.stage, caught.value.error, caught.value.message) == (
        "bill",
        "shop.NoPrice",
        "no chair",
    )
    assert (caught.value.job_id, failed.cancel()) == (failed.id, False)
    assert cancelled.cancel()
    assert cancelled.wait() is JobState.CANCELLED
    with pytest.raises(JobCancelledError):
        cancelled.result()
    with pytest.raises(TimeoutError):
        running.result(timeout=0)
    for call in (JobHandle.status, JobHandle.wait, JobHandle.result, JobHandle.cancel):
        with pytest.raises(UnknownJobError, match="no job nobody"):
            call(client.handle("nobody"))


def test_a_service_that_is_away_is_an_error_within_seconds(environment: dict[str, str]) -> None:
    """Nothing is written, and the caller is not kept."""
    began = time.monotonic()
    with (
        Client({**environment, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}) as client,
        pytest.raises(ServiceError, match="Could not reach Kafka"),
    ):
        client.submit(bill, Sale(article="chair", amount=2))
    assert time.monotonic() - began < PATIENCE


def _submit_in_child(client: Client, answer: Connection) -> None:
    answer.send(client.submit(bill, Sale(article="chair", amount=2)).id)
    answer.close()


def test_a_client_that_was_used_goes_through_a_fork(client: Client, settings: Settings) -> None:
    """Each process has connections of its own, as under a web server that forks its workers."""
    first = client.submit(bill, Sale(article="chair", amount=1))
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_submit_in_child, args=(client, sending))
    child.start()
    try:
        assert receiving.poll(PATIENCE), "the child submitted nothing"
        second = receiving.recv()
        child.join(PATIENCE)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
    third = client.submit(bill, Sale(article="chair", amount=3))
    assert len({first.id, second, third.id}) == 3
    assert len(events(settings, "client-sales")) == 3


def test_the_loop_goes_on_while_an_async_client_waits(
    environment: dict[str, str], settings: Settings
) -> None:
    """More waits than it has threads; all return when their jobs end, and the loop turns meanwhile."""

    async def main() -> None:
        async with AsyncClient(environment) as client:
            first = await client.submit(bill, Sale(article="chair", amount=2), key="one")
            answers = await client.submit_many(bill, [Sale(article="chair", amount=n) for n in range(20)])
            handles = [answer for answer in answers if not isinstance(answer, Exception)]
            waits = [asyncio.create_task(handle.result(PATIENCE)) for handle in handles]
            turns = 0
            for handle in handles:
                await asyncio.to_thread(end, settings, handle.id, "bill", '{"total":1}')
                turns += 1
            assert await asyncio.gather(*waits) == [{"total": 1}] * 20
            assert turns == len(handles) == 20
            assert await first.status() is JobState.RUNNING
            assert await client.handle(first.id).cancel()
            with pytest.raises(JobCancelledError):
                await first.result()
            with pytest.raises(TimeoutError):
                await (await client.submit("bill", {"article": "x", "amount": 1})).wait(0)

    asyncio.run(main())


def test_a_caller_without_the_code_starts_what_a_bridge_announced(client: Client, settings: Settings) -> None:
    """The bridges of the service say which stages there are."""
    with pytest.raises(InvalidEventError, match="No stage is called 'ship'"):
        client.submit("ship", {"anything": 1})
    route = Route(name="ship", consumes="elsewhere-shipped")
    JobStore(settings).deployments.announce([route], time.time())
    handle = client.submit("ship", {"anything": 1})
    assert handle.status() is JobState.RUNNING
    assert len(events(settings, "elsewhere-shipped")) == 1
