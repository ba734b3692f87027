"""The live state: many who watch cost what one does, and what is away costs its own part only."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import cast

import pytest

from config.settings import Settings
from pipeline.errors import ServiceUnavailableError
from pipeline.health.probe import Probe
from pipeline.health.reports import Report
from pipeline.health.shared import Shared
from pipeline.jobs import Job
from pipeline.monitoring.stages import StageStats
from pipeline.registry import Registry
from pipeline.web import live
from pipeline.web.letters import Letters
from pipeline.web.live import Live
from pipeline.web.model import PipelineView
from pipeline.web.views import Views

SETTINGS = Settings(
    service_name="orders",
    kafka_bootstrap_servers="nowhere:9092",
    kafka_consumer_group="orders",
    sqs_task_queue_url="https://sqs.eu-west-1.amazonaws.com/1/orders.fifo",
    sqs_dlq_url="https://sqs.eu-west-1.amazonaws.com/1/orders-dlq.fifo",
)
WATCHERS = 50

#: Seconds that a report is waited for: enough for a busy machine to start a thread.
TIMEOUT = 1.5

QUEUES = {
    "status": "healthy",
    "queue": "orders.fifo",
    "messages_available": 3,
    "messages_in_flight": 2,
    "messages_delayed": 0,
    "dlq": "orders-dlq.fifo",
    "dlq_depth": 1,
}


class Records:
    """Stands where DynamoDB is read: counts the reads, and answers when it is let."""

    def __init__(self) -> None:
        self.reads = 0
        self.answering = threading.Event()

    def record(self, job_id: str) -> Job | None:
        self.reads += 1
        if not self.answering.wait(20):
            raise ServiceUnavailableError("nobody let it")
        if job_id == "denied":
            raise ServiceUnavailableError("it is away")
        return None


def watched(records: Records | None = None, **make: Callable[[], Report]) -> Live:
    """A live state over these reports; what is not given is healthy."""

    def healthy() -> Report:
        return {"status": "healthy"}

    probes = {
        name: Probe(name, make.get(name, healthy), timeout=TIMEOUT, lifetime=60)
        for name in ("kafka", "sqs", "dynamodb")
    }
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

    def read() -> Report:
        asked.append("sqs")
        time.sleep(0.05)
        return QUEUES

    async def together() -> list[PipelineView]:
        state = watched(sqs=read)
        return await asyncio.gather(*(state.pipeline() for _ in range(WATCHERS)))

    views = asyncio.run(together())
    assert asked == ["sqs"]
    assert all(view.queues == views[0].queues for view in views)
    assert [(each.role, each.available) for each in views[0].queues] == [("tasks", 3), ("dlq", 1)]


def test_a_service_that_is_away_costs_its_own_part() -> None:
    """The rest is shown in time, with what is away, why, and since when: the moment stays while it lasts."""
    release = threading.Event()

    def hang() -> Report:
        release.wait(20)
        return {"status": "healthy"}

    async def look_twice() -> tuple[PipelineView, PipelineView]:
        state = watched(kafka=hang, sqs=lambda: QUEUES)
        first = await state.pipeline()
        await asyncio.sleep(0.05)
        return first, await state.pipeline()

    started = time.monotonic()
    first, second = asyncio.run(look_twice())
    release.set()
    assert time.monotonic() - started < 10
    assert len(second.queues) == 2
    (away,) = second.away
    assert (away.service, away.error) == ("Kafka", f"kafka did not answer within {TIMEOUT:g} s")
    assert away.since == first.away[0].since < second.taken_at


def test_what_many_ask_for_is_read_once() -> None:
    """Fifty who open one job cost one read; another job is a read of its own; errors are shared as well."""
    records = Records()

    async def ask() -> None:
        state = watched(records)
        asking = [asyncio.ensure_future(state.record("one")) for _ in range(WATCHERS)]
        asking += [asyncio.ensure_future(state.record("denied")) for _ in range(WATCHERS)]
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
                await state.record("one")
        records.answering.set()

    asyncio.run(ask())
    assert records.reads == 1


def test_too_much_at_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks for ever new things while none is answered costs a bounded number of threads."""
    monkeypatch.setattr(live, "AT_ONCE", 3)
    records = Records()

    async def ask() -> None:
        state = watched(records)
        asking = [asyncio.ensure_future(state.record(str(number))) for number in range(10)]
        await asyncio.sleep(0.05)
        records.answering.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert sum(isinstance(each, ServiceUnavailableError) for each in answers) == 7

    asyncio.run(ask())
    assert records.reads == 3


def test_after_an_action_everything_is_read_anew() -> None:
    """Who acts sees what came of it, and not what was read before."""
    records = Records()
    records.answering.set()

    async def ask() -> None:
        state = watched(records)
        await state.record("one")
        await state.record("one")
        assert records.reads == 1
        assert await state.act(lambda: "done") == "done"
        await state.record("one")

    asyncio.run(ask())
    assert records.reads == 2


def test_an_exception_is_an_answer() -> None:
    """Who asks together gets the same exception, and the next is answered anew."""
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
