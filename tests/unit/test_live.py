"""The live state: many readers cost as much as one, and a service that is away affects its own part only."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import cast

import pytest

from pipeline.author.registry import Registry
from pipeline.errors import ServiceUnavailableError
from pipeline.observe.probe import Probe, Probes, Shared
from pipeline.observe.reports import DynamodbReport, KafkaReport, QueueReading, SqsReport
from pipeline.observe.stagestats import StageStats
from pipeline.schedules.status import ScheduleStatus
from pipeline.web import live
from pipeline.web.letters import Letters
from pipeline.web.live import Live
from pipeline.web.model import JobDetail, PipelineView
from pipeline.web.views import Views
from tests import builders

SETTINGS = builders.settings(service_name="orders")
WATCHERS = 50

#: Seconds that Kafka's report is waited for, which one test waits for in vain; and the others'.
TIMEOUT, PATIENT = 1.5, 60.0

QUEUES = SqsReport(
    status="healthy",
    queue="orders.fifo",
    dlq="orders-dlq.fifo",
    queues=(
        QueueReading(name="orders.fifo", role="tasks", available=3, in_flight=2, delayed=0),
        QueueReading(name="orders-dlq.fifo", role="dlq", available=0, in_flight=1, delayed=0),
    ),
)


class Records:
    """Stands where DynamoDB is read: counts the reads, and answers when it is let."""

    def __init__(self) -> None:
        self.reads = self.schedule_reads = 0
        self.answering = threading.Event()

    def schedules(self) -> list[ScheduleStatus]:
        self.schedule_reads += 1
        return []

    def job(self, job_id: str) -> JobDetail | None:
        self.reads += 1
        if not self.answering.wait(20):
            raise ServiceUnavailableError("nobody let it")
        if job_id == "denied":
            raise ServiceUnavailableError("it is away")
        return None


def watched(
    records: Records | None = None,
    kafka: Callable[[], KafkaReport] = lambda: KafkaReport(status="healthy"),
    sqs: Callable[[], SqsReport] = lambda: SqsReport(status="healthy"),
) -> Live:
    """A live state over these reports; what is not given is healthy."""
    probes = Probes(
        kafka=Probe("kafka", KafkaReport, kafka, timeout=TIMEOUT, lifetime=60),
        sqs=Probe("sqs", SqsReport, sqs, timeout=PATIENT, lifetime=60),
        dynamodb=Probe("dynamodb", DynamodbReport, lambda: DynamodbReport(status="healthy"), timeout=PATIENT),
    )
    return Live(
        SETTINGS,
        Registry(),
        probes,
        StageStats(SETTINGS),
        cast(Views, records or Records()),
        Letters(SETTINGS),
    )


def test_fifty_who_watch_cost_one_read() -> None:
    """However many look at the pipeline, each service is asked once for all of them."""
    asked: list[str] = []

    def read() -> SqsReport:
        asked.append("sqs")
        time.sleep(0.05)
        return QUEUES

    records = Records()

    async def together() -> list[PipelineView]:
        state = watched(records, sqs=read)
        return await asyncio.gather(*(state.pipeline() for _ in range(WATCHERS)))

    views = asyncio.run(together())
    assert asked == ["sqs"]
    assert records.schedule_reads == 1
    assert all(view.queues == views[0].queues for view in views)
    assert [(each.role, each.available) for each in views[0].queues] == [("tasks", 3), ("dlq", 1)]


def test_a_service_that_is_away_costs_its_own_part() -> None:
    """The rest is shown in time, with what is away, why, and since when: the moment stays while it lasts."""
    release = threading.Event()

    def hang() -> KafkaReport:
        release.wait(60)
        return KafkaReport(status="healthy")

    async def look_twice() -> tuple[PipelineView, PipelineView]:
        state = watched(kafka=hang, sqs=lambda: QUEUES)
        first = await state.pipeline()
        await asyncio.sleep(0.05)
        return first, await state.pipeline()

    started = time.monotonic()
    first, second = asyncio.run(look_twice())
    release.set()
    assert time.monotonic() - started < 30
    assert len(second.queues) == 2
    (away,) = second.away
    assert (away.service, away.error) == ("Kafka", f"kafka did not answer within {TIMEOUT:g} s")
    assert away.since == first.away[0].since < second.taken_at


def test_what_many_ask_for_is_read_once() -> None:
    """Fifty who open one job cost one read; another job is a read of its own; errors are shared as well."""
    records = Records()

    async def ask() -> None:
        state = watched(records)
        asking = [asyncio.ensure_future(state.job("one")) for _ in range(WATCHERS)]
        asking += [asyncio.ensure_future(state.job("denied")) for _ in range(WATCHERS)]
        await asyncio.sleep(0)
        records.answering.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert answers[:WATCHERS] == [None] * WATCHERS
        assert {str(each) for each in answers[WATCHERS:]} == {"it is away"}

    asyncio.run(ask())
    assert records.reads == 2


def test_a_slow_service_is_said_to_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page says so after some seconds, and whoever asks again waits for the same read."""
    monkeypatch.setattr(live, "READ_TIMEOUT", 0.1)
    records = Records()

    async def ask() -> None:
        state = watched(records)
        for _ in range(3):
            with pytest.raises(ServiceUnavailableError, match="did not answer in time"):
                await state.job("one")
        records.answering.set()

    asyncio.run(ask())
    assert records.reads == 1


def test_too_much_at_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests for ever new keys, none answered, use a bounded number of threads."""
    monkeypatch.setattr(live, "AT_ONCE", 3)
    records = Records()

    async def ask() -> None:
        state = watched(records)
        asking = [asyncio.ensure_future(state.job(str(number))) for number in range(10)]
        await asyncio.sleep(0.05)
        records.answering.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert sum(isinstance(each, ServiceUnavailableError) for each in answers) == 7

    asyncio.run(ask())
    assert records.reads == 3


def test_after_an_action_everything_is_read_anew() -> None:
    """After an action, its effect is read, not the cache."""
    records = Records()
    records.answering.set()

    async def ask() -> None:
        state = watched(records)
        await state.job("one")
        await state.job("one")
        assert records.reads == 1
        assert await state.act(lambda: "done") == "done"
        await state.job("one")

    asyncio.run(ask())
    assert records.reads == 2


def test_an_exception_is_an_answer() -> None:
    """Callers at one time get the same exception; the next one reads anew."""
    calls: list[int] = []
    both = threading.Event()

    def fail() -> int:
        calls.append(1)
        both.wait(20)
        raise ValueError("as asked")

    async def ask() -> None:
        shared = Shared("test", fail, timeout=5, lifetime=0)
        asking = [asyncio.ensure_future(shared.get()) for _ in range(2)]
        await asyncio.sleep(0.05)
        both.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert [str(each) for each in answers] == ["as asked"] * 2
        with pytest.raises(ValueError, match="as asked"):
            await shared.get()

    asyncio.run(ask())
    assert len(calls) == 2
