"""What the last minutes say of stages and workers, from Celery's events."""

from typing import Any

import pytest

from config.settings import Settings
from pipeline.monitoring.stages import IDLE, MOST_RUNNING, StageStats
from pipeline.monitoring.window import GROWTH, SPAN, Window
from pipeline.transport.envelope import PARSED

NOW = 1_700_000_000.0


class Clock:
    """A clock that is set by hand."""

    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture(name="clock")
def clock_fixture() -> Clock:
    return Clock()


@pytest.fixture(name="stats")
def stats_fixture(clock: Clock) -> StageStats:
    settings = Settings(
        service_name="test",
        kafka_bootstrap_servers="none",
        kafka_consumer_group="test",
        sqs_task_queue_url="http://none/tasks.fifo",
        sqs_dlq_url="http://none/dlq.fifo",
    )
    return StageStats(settings, clock=clock)


def tell(stats: StageStats, kind: str, at: float = NOW, **fields: Any) -> None:
    """One event, as a worker sends it."""
    event = {"type": kind, "timestamp": at, "hostname": "w@host", **fields}
    if kind.startswith("task-"):
        event = {"uuid": "t", "name": "count", **event}
    stats.put("stages", {PARSED: [event]})


def succeed(stats: StageStats, at: float, seconds: float, **fields: Any) -> None:
    tell(stats, "task-succeeded", at, runtime=seconds, result="'…'", **fields)


def test_percentiles_are_within_what_a_class_is_wide() -> None:
    """Of a thousand runs of 1 ms to 1 s, the middle and the slow end are right to 2.5 %."""
    window = Window()
    for n in range(1, 1_001):
        window.done("count", n / 1_000, NOW)
    rates = window.rates("count", NOW, NOW - SPAN)
    assert rates.p50_seconds == pytest.approx(0.5, rel=(GROWTH - 1) / 2 + 0.005)
    assert rates.p95_seconds == pytest.approx(0.95, rel=(GROWTH - 1) / 2 + 0.005)


def test_a_run_of_no_time_is_one() -> None:
    """A clock may not move during a run."""
    window = Window()
    window.done("count", 0.0, NOW)
    rates = window.rates("count", NOW, NOW)
    assert rates.p50_seconds
    assert 0 < rates.p50_seconds < 0.001


def test_rates_are_of_the_last_minute_and_the_rest_of_the_window(stats: StageStats, clock: Clock) -> None:
    """A rate is of a minute, the share of failures and the run times of the whole window."""
    for second in range(240):
        clock.now = NOW + second
        succeed(stats, clock.now, 0.1)
        if second < 60:
            tell(stats, "task-retried", clock.now)
    count = stats.snapshot().tasks["count"]
    assert count.per_second == pytest.approx(1.0, abs=0.1)
    assert count.failed_share == pytest.approx(60 / 300)
    assert count.p50_seconds == count.p95_seconds == pytest.approx(0.1, rel=0.03)


def test_what_is_older_than_the_window_is_forgotten(stats: StageStats, clock: Clock) -> None:
    """Nothing is kept of a stage that did nothing for minutes, nor of a worker that was not heard of."""
    succeed(stats, NOW, 0.1)
    tell(stats, "worker-heartbeat")
    clock.now = NOW + SPAN + 10
    reading = stats.snapshot()
    assert (reading.tasks, reading.workers) == ({}, [])
    assert reading.rates("count") == IDLE


def test_a_worker_whose_clock_is_ahead_ends_nothing_in_the_future(stats: StageStats) -> None:
    """What it says counts as of now."""
    succeed(stats, NOW + 3_600, 0.1)
    assert stats.snapshot().tasks["count"].per_second > 0


def test_a_rate_counts_from_when_something_was_known(stats: StageStats, clock: Clock) -> None:
    """A reader that has listened for twenty seconds does not divide by sixty."""
    clock.now = NOW + 20
    for second in range(20):
        succeed(stats, NOW + second, 0.1)
    assert stats.snapshot().tasks["count"].per_second == pytest.approx(1.0)


def test_runs_under_way_are_those_of_workers_that_are_there(stats: StageStats, clock: Clock) -> None:
    """A start counts until the run's end, however it ends, and while its worker gives signs of life."""
    tell(stats, "worker-heartbeat", active=2, pool_size=8)
    for task_id, name in (("1", "count"), ("2", "count"), ("3", "count.split")):
        tell(stats, "task-started", uuid=task_id, name=name)
    tell(stats, "task-failed", uuid="2")
    running = {name: each.running for name, each in stats.snapshot().tasks.items()}
    assert running == {"count": 1, "count.split": 1}
    (worker,) = stats.snapshot().workers
    assert (worker.name, worker.online, worker.pool_size, worker.active) == ("w@host", True, 8, 2)
    clock.now = NOW + 11
    reading = stats.snapshot()
    assert not reading.workers[0].online
    assert reading.rates("count").running == 0


def test_a_worker_that_runs_nothing_ends_what_was_under_way(stats: StageStats) -> None:
    """The end of a run may be lost: an idle worker, or one that left, has none."""
    for kind, fields in (("worker-heartbeat", {"active": 0}), ("worker-offline", {})):
        tell(stats, "worker-heartbeat", active=1)
        tell(stats, "task-started")
        assert stats.snapshot().rates("count").running == 1
        tell(stats, kind, **fields)
        assert stats.snapshot().rates("count").running == 0
    assert not stats.snapshot().workers[0].online


def test_runs_whose_ends_were_lost_do_not_pile_up(stats: StageStats) -> None:
    """The oldest give way."""
    tell(stats, "worker-heartbeat", active=1)
    for number in range(MOST_RUNNING + 5):
        tell(stats, "task-started", uuid=str(number))
    assert stats.snapshot().rates("count").running == MOST_RUNNING


def test_what_did_not_run_counts_as_no_run(stats: StageStats) -> None:
    """A task that was done before its delivery has no run time; a received one has not run yet."""
    tell(stats, "task-received")
    tell(stats, "task-succeeded")
    tell(stats, "task-revoked")
    assert stats.snapshot().tasks == {}


def test_without_kafka_it_says_so(stats: StageStats) -> None:
    """A service that has Kafka switched off has no events, and the page says why."""
    off = stats._settings.model_copy(update={"kafka_enabled": False})
    reader = StageStats(off)
    reader.start()
    reading = reader.snapshot()
    reader.stop()
    assert reading.error
    assert "KAFKA_ENABLED" in reading.error
