"""Rates and run times of stages and workers in the last minutes, from Celery's events."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.control.controlmessage import HEARTBEATS_LAST
from pipeline.observe.stagestats import IDLE, MOST_RUNNING, MOST_WORKERS, UNKNOWN, StageStats
from pipeline.observe.window import GROWTH, MOST_NAMES, SPAN, Window
from pipeline.transport.envelope import PARSED
from tests import builders

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
    settings = builders.settings(service_name="test")
    return StageStats(settings, clock=clock)


def tell(stats: StageStats, kind: str, at: float = NOW, **fields: Any) -> None:
    """One event, as a worker sends it."""
    event = {"type": kind, "timestamp": at, "hostname": "w@host", **fields}
    if kind.startswith("task-"):
        event = {"uuid": "t", "name": "count", **event}
    stats.put("stages", {PARSED: [event]})


def succeed(stats: StageStats, at: float, seconds: float, **fields: Any) -> None:
    tell(stats, "task-succeeded", at, runtime=seconds, result="'…'", **fields)


def running(stats: StageStats) -> int:
    """Current runs of all tasks."""
    return sum(rates.running or 0 for rates in stats.snapshot().tasks.values())


def test_percentiles_are_within_what_a_class_is_wide() -> None:
    """Of a thousand runs of 1 ms to 1 s, the middle and the slow end are right to 2.5 %."""
    window = Window()
    for n in range(1, 1_001):
        window.add_run_time("count", n / 1_000, NOW)
    rates = window.rates("count", NOW, NOW - SPAN)
    assert rates.p50_seconds == pytest.approx(0.5, rel=(GROWTH - 1) / 2 + 0.005)
    assert rates.p95_seconds == pytest.approx(0.95, rel=(GROWTH - 1) / 2 + 0.005)


def test_a_run_of_no_time_is_one() -> None:
    """A clock may not move during a run."""
    window = Window()
    window.add_run_time("count", 0.0, NOW)
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
    """The answer holds for the current moment."""
    succeed(stats, NOW + 3_600, 0.1)
    assert stats.snapshot().rates("count").per_second


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


def test_a_worker_runs_no_more_than_it_says(stats: StageStats) -> None:
    """The ends of runs may be lost: what its heartbeat does not count has ended, the oldest first."""
    tell(stats, "worker-heartbeat", active=6, pool_size=6)
    for number in range(137):
        tell(stats, "task-started", uuid=str(number), name="old" if number < 131 else "new")
    assert running(stats) == 6
    assert stats.snapshot().rates("new").running == 6
    tell(stats, "worker-heartbeat", active=2, pool_size=6)
    assert running(stats) == 2
    tell(stats, "task-started", uuid="another")
    assert running(stats) == 3


def test_a_run_that_is_being_settled_is_not_one_too_many(stats: StageStats) -> None:
    """A pool of two: the next run starts before the event of the last one's end."""
    tell(stats, "worker-heartbeat", active=1, pool_size=2)
    for task_id, name in (("1", "long"), ("2", "short"), ("3", "short")):
        tell(stats, "task-started", uuid=task_id, name=name)
    assert running(stats) == 2
    tell(stats, "task-succeeded", uuid="2", name="short", runtime=0.1)
    assert {name: each.running for name, each in stats.snapshot().tasks.items()} == {"long": 1, "short": 1}


def test_a_deaf_reader_shows_nothing_instead_of_zeros(
    stats: StageStats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While events cannot be read no figure is known, whatever was heard before; then all is back."""
    tell(stats, "worker-heartbeat", active=1, pool_size=8)
    tell(stats, "task-started")
    away: list[str] = ["brokers are away"]
    monkeypatch.setattr(stats, "_error", lambda: away[0] if away else None)
    reading = stats.snapshot()
    assert reading.error == "brokers are away"
    assert (reading.tasks, list(reading.workers), reading.rates("count")) == ({}, [], UNKNOWN)
    away.clear()
    reading = stats.snapshot()
    assert (len(reading.workers), reading.rates("count").running) == (1, 1)


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


# ─── Events of a stranger ───


@given(st.floats() | st.integers())
def test_any_number_is_a_run_time(seconds: float) -> None:
    """It counts as the shortest or longest run; none stops the reader."""
    window = Window()
    window.add_run_time("count", seconds, NOW)
    assert window.rates("count", NOW, NOW).p95_seconds is not None


def test_false_workers_are_bounded_and_displace_none(stats: StageStats) -> None:
    """Of 20,000 names a thousand are kept, and a worker that was known stays."""
    tell(stats, "worker-heartbeat", hostname="true@host", active=1, pool_size=4)
    tell(stats, "task-started", hostname="true@host")
    for number in range(20_000):
        tell(stats, "worker-heartbeat", hostname=f"false{number}@host")
    reading = stats.snapshot()
    assert len(reading.workers) == MOST_WORKERS
    assert reading.is_full
    assert ("true@host", True, 1) in {(each.name, each.online, each.active) for each in reading.workers}
    assert running(stats) == 1


def test_there_is_room_again_when_false_workers_are_silent(stats: StageStats, clock: Clock) -> None:
    """They are forgotten like any other worker."""
    for number in range(MOST_WORKERS):
        tell(stats, "worker-heartbeat", hostname=f"false{number}@host")
    clock.now = NOW + SPAN + 10
    assert not stats.snapshot().is_full
    tell(stats, "worker-heartbeat", clock.now)
    assert [each.name for each in stats.snapshot().workers] == ["w@host"]


def test_false_workers_that_fell_silent_make_place(stats: StageStats, clock: Clock) -> None:
    """A worker that starts after them is seen a few seconds later, not minutes."""
    for number in range(MOST_WORKERS):
        tell(stats, "worker-heartbeat", hostname=f"false{number}@host")
    tell(stats, "worker-heartbeat", hostname="true@host")
    assert "true@host" not in {each.name for each in stats.snapshot().workers}
    clock.now = NOW + HEARTBEATS_LAST + 1
    tell(stats, "worker-heartbeat", clock.now, hostname="true@host")
    reading = stats.snapshot()
    assert [each.name for each in reading.workers if each.online] == ["true@host"]
    assert len(reading.workers) == MOST_WORKERS


def test_runs_of_false_workers_are_bounded(stats: StageStats) -> None:
    """Runs are kept of so many workers only; those of silent ones make room for those of others."""
    for number in range(MOST_WORKERS + 10):
        tell(stats, "task-started", hostname=f"false{number}@host", uuid=f"t{number}")
    tell(stats, "worker-heartbeat", active=1)
    tell(stats, "task-started")
    assert len(stats._running) == MOST_WORKERS
    assert running(stats) == 1


def test_names_of_tasks_are_bounded(stats: StageStats, clock: Clock) -> None:
    """A name that was known is counted on; there is room again when the others are old."""
    succeed(stats, NOW, 0.1)
    for number in range(2 * MOST_NAMES):
        succeed(stats, NOW, 0.1, name=f"false{number}")
        tell(stats, "task-failed", name=f"failed{number}")
    succeed(stats, NOW, 0.1)
    reading = stats.snapshot()
    assert len(reading.tasks) == MOST_NAMES
    assert reading.is_full
    assert reading.rates("count").per_second == pytest.approx(2 / 5)
    clock.now = NOW + SPAN + 10
    succeed(stats, clock.now, 0.1, name="late")
    reading = stats.snapshot()
    assert (list(reading.tasks), reading.is_full) == (["late"], False)


@pytest.mark.parametrize("size", [-1, 10**18, True, 1.5, "4", None])
def test_an_impossible_size_is_unknown(stats: StageStats, size: Any) -> None:
    """A pool has neither fewer than no processes nor more than there may be."""
    tell(stats, "worker-heartbeat", active=size, pool_size=size)
    (worker,) = stats.snapshot().workers
    assert (worker.active, worker.pool_size) == (None, None)


@pytest.mark.parametrize("at", [-1e15, 0.0, NOW - SPAN - 10, 1e15])
def test_an_event_of_another_time_keeps_nothing_for_long(stats: StageStats, clock: Clock, at: float) -> None:
    """One of long ago does not count, one of the future counts as of now."""
    succeed(stats, at, 0.1)
    assert len(stats.snapshot().tasks) == (1 if at > NOW else 0)
    clock.now = NOW + SPAN + 10
    assert stats.snapshot().tasks == {}


def test_workers_that_are_online_are_counted(stats: StageStats, clock: Clock) -> None:
    """Those that sent a heartbeat lately, and no goodbye."""
    for name in ("a", "b", "c"):
        tell(stats, "worker-heartbeat", hostname=name)
    assert stats.snapshot().online == 3
    tell(stats, "worker-offline", hostname="b")
    clock.now += HEARTBEATS_LAST
    tell(stats, "worker-heartbeat", clock.now, hostname="a")
    assert stats.snapshot().online == 1


# ─── Counters of a worker that sends the events of a share of its jobs ───


def beat(
    stats: StageStats, at: float, *, kind: str = "worker-heartbeat", since: float = 0.0, **count: Any
) -> None:
    """One heartbeat with the counters of tasks: lists of done, failed and running."""
    tell(stats, kind, at, tasks=count, counted_since=since, one_in=8, active=4, pool_size=4)


def test_runs_are_counted_by_heartbeats_whatever_events_are_sent(stats: StageStats, clock: Clock) -> None:
    """A hundred a second, of which the events of one in eight come; the failures all come."""
    beat(stats, NOW)
    for second in range(2, 62, 2):
        clock.now = NOW + second
        for _ in range(24):
            succeed(stats, clock.now, 0.1, stands_for=8)
        for _ in range(8):
            tell(stats, "task-retried", clock.now)
        beat(stats, clock.now, count=[96 * second, 4 * second, 3], other=[0, 0, 1])
    reading = stats.snapshot()
    count = reading.tasks["count"]
    assert count.per_second == pytest.approx(100, rel=0.1)
    assert count.failed_share == pytest.approx(0.04)
    assert count.p50_seconds == pytest.approx(0.1, rel=0.03)
    assert {name: each.running for name, each in reading.tasks.items()} == {"count": 3, "other": 1}
    assert [worker.one_in for worker in reading.workers] == [8]


def test_a_worker_of_an_earlier_version_is_counted_by_its_events(stats: StageStats, clock: Clock) -> None:
    """Beside one that sends counters, during a deployment."""
    beat(stats, NOW)
    tell(stats, "worker-heartbeat", hostname="old@host", active=1, pool_size=1)
    clock.now = NOW + 5
    for _ in range(25):
        succeed(stats, clock.now, 0.1, hostname="old@host")
    tell(stats, "task-started", hostname="old@host")
    beat(stats, clock.now, count=[75, 0, 2])
    reading = stats.snapshot()
    assert reading.tasks["count"].per_second == pytest.approx(100 / 5)
    assert reading.tasks["count"].running == 3
    assert [worker.one_in for worker in reading.workers] == [1, 8]


def test_the_past_is_known_from_the_events(stats: StageStats, clock: Clock) -> None:
    """A page that starts reads no old heartbeat: each event says how many tasks it stands for."""
    clock.now = NOW + 60
    for second in range(60):
        for _ in range(5):
            succeed(stats, NOW + second, 0.1, stands_for=16)
        tell(stats, "task-failed", NOW + second)
    count = stats.snapshot().tasks["count"]
    assert count.per_second == pytest.approx(81)
    assert count.failed_share == pytest.approx(1 / 81)
    beat(stats, clock.now, count=[1_000_000, 5, 0])
    assert stats.snapshot().tasks["count"].per_second == pytest.approx(81)


def test_a_worker_that_started_anew_counts_from_zero(stats: StageStats, clock: Clock) -> None:
    """Under the same name, in another process, and also when it has counted further than the one before."""
    beat(stats, NOW, count=[50, 0, 0])
    clock.now = NOW + 5
    beat(stats, clock.now, since=1.0, kind="worker-online", count=[60, 0, 0])
    beat(stats, clock.now, since=2.0, kind="worker-online", count=[40, 0, 0])
    assert stats.snapshot().tasks["count"].per_second == pytest.approx(100 / 5)


def test_what_ended_while_no_heartbeat_came_is_spread_over_that_time(stats: StageStats, clock: Clock) -> None:
    """After an outage of Kafka no stage seems to run ten times as fast."""
    beat(stats, NOW, count=[0, 0, 0])
    clock.now = NOW + 2 * SPAN
    beat(stats, clock.now, count=[int(20 * SPAN), int(20 * SPAN), 0])
    count = stats.snapshot().tasks["count"]
    assert count.per_second == pytest.approx(20, rel=0.1)
    assert count.failed_share == pytest.approx(0.5)


def test_what_ends_after_a_workers_goodbye_is_counted_by_its_events(stats: StageStats, clock: Clock) -> None:
    """A stopping worker sends its last heartbeat before its last runs end."""
    beat(stats, NOW, count=[10, 0, 2])
    beat(stats, NOW, kind="worker-offline", count=[12, 0, 2])
    clock.now = NOW + 5
    succeed(stats, clock.now, 0.1)
    succeed(stats, clock.now, 0.1)
    count = stats.snapshot().tasks["count"]
    assert count.per_second == pytest.approx(4 / 5)
    assert count.running == 0


@given(
    st.lists(
        st.tuples(st.floats(min_value=0.1, max_value=30), st.integers(0, 500), st.integers(0, 50)),
        max_size=10,
    )
)
def test_no_run_is_lost_or_counted_twice(beats: list[tuple[float, int, int]]) -> None:
    """However far apart the heartbeats of the window are."""
    window, now, total, failures = Window(), NOW, 0, 0
    for seconds, done, failed in beats:
        window.add_ends("count", now, now + seconds, done=done, failed=failed)
        now, total, failures = now + seconds, total + done, failures + failed
    slices = [slice_["count"] for slice_ in window._slices.values()]
    assert sum(each.done for each in slices) == pytest.approx(total)
    assert sum(each.failed for each in slices) == pytest.approx(failures)


@given(st.floats(-1e15, 1e15), st.floats(-1e15, 1e15))
def test_any_time_of_a_heartbeat_is_taken(start: float, end: float) -> None:
    """A clock may go back, and a stranger may write any time: never more slices than the window has."""
    window = Window()
    window.add_ends("count", start, end, done=1)
    assert len(window._slices) <= SPAN / 5 + 2
    if start >= end - SPAN:
        assert sum(slice_["count"].done for slice_ in window._slices.values()) == pytest.approx(1)


@pytest.mark.parametrize("since", [None, "now", [1] * 1_000, {}, True])
def test_an_impossible_start_of_counting_is_kept_nowhere(stats: StageStats, since: Any) -> None:
    """The counters count all the same."""
    beat(stats, NOW, since=since, count=[1, 0, 0])
    beat(stats, NOW, since=since, count=[6, 0, 0])
    assert stats.snapshot().tasks["count"].per_second == pytest.approx(1)
    assert stats._workers["w@host"].counted_since in (None, True)
