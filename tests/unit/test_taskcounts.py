"""A worker's heartbeat counts all its tasks, whatever events it sends."""

import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch
from weakref import WeakSet

import pytest
from celery.worker import state
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import dumps, loads

from pipeline.control.taskcounts import MOST_COUNTED, MOST_ENDED, TASKS, TaskCount, counts_in, one_in
from pipeline.worker.consumer import Consumer
from pipeline.worker.sample import Sample
from pipeline.worker.taskcounts import TaskCounts


def read(counts: TaskCounts, *running: str) -> Any:
    """Return the counters as a reader finds them in the heartbeat."""
    return counts_in(loads(dumps(counts.fields(running))))


def test_each_run_that_ended_is_counted_once() -> None:
    """A retried one failed; one that was done before its delivery did not run; a received one did not end."""
    counts = TaskCounts()
    assert read(counts) == {}
    for kind, has_run in (
        ("task-received", False),
        ("task-started", False),
        ("task-succeeded", True),
        ("task-succeeded", True),
        ("task-succeeded", False),
        ("task-retried", False),
        ("task-failed", False),
        ("task-revoked", False),
    ):
        counts.take(kind, "count", has_run=has_run)
    assert read(counts, "count", "sum") == {"count": TaskCount(2, 2, 1), "sum": TaskCount(0, 0, 1)}


def test_too_many_names_are_no_counters() -> None:
    """Messages name tasks as they like (``shadow``): readers then count events."""
    counts = TaskCounts()
    for number in range(MOST_COUNTED):
        counts.take("task-failed", f"task{number}", has_run=True)
    assert len(read(counts)) == MOST_COUNTED
    for number in range(3 * MOST_COUNTED):
        counts.take("task-failed", f"other{number}", has_run=True)
    assert counts.fields([])[TASKS] is None
    assert read(counts) is None
    assert len(counts._failed) <= MOST_COUNTED + 1


def test_threads_lose_no_count() -> None:
    """Settlement ends tasks on four threads."""
    counts = TaskCounts()

    def settle() -> None:
        for _ in range(5_000):
            counts.take("task-succeeded", "count", has_run=True)

    threads = [threading.Thread(target=settle) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(counts) == {"count": TaskCount(20_000, 0, 0)}


def test_a_heartbeat_has_the_counters_the_share_and_what_runs() -> None:
    """Celery's own set of runs under way; it sends these fields with each worker event."""
    counts, sample = TaskCounts(), Sample(100)
    counts.take("task-succeeded", "count", has_run=True)
    sample.one_in = 8
    runs = [Run("count"), Run("count"), Run("sum")]
    worker = SimpleNamespace(
        runtime=SimpleNamespace(counts=counts, sample=sample), pool=SimpleNamespace(num_processes=3)
    )
    with patch.object(state, "active_requests", WeakSet(runs)), patch.dict(state.SOFTWARE_INFO):
        Consumer.add_figures(cast(Any, worker))
        event = loads(dumps(state.SOFTWARE_INFO))
    assert counts_in(event) == {"count": TaskCount(1, 0, 2), "sum": TaskCount(0, 0, 1)}
    assert (event["one_in"], event["pool_size"]) == (8, 3)
    assert event["counted_since"] == counts._since


@dataclass(eq=False)
class Run:
    """A run under way."""

    name: str


# ─── Events of a stranger, and of earlier versions ───


@pytest.mark.parametrize(
    "tasks", [None, [], "tasks", 7, {f"t{number}": [1, 0, 0] for number in range(MOST_COUNTED + 1)}]
)
def test_a_worker_event_without_counters_has_none(tasks: Any) -> None:
    """One of an earlier version has no such field."""
    assert counts_in({TASKS: tasks}) is None
    assert counts_in({}) is None


@pytest.mark.parametrize(
    "value",
    [None, 1, "1", [], [1, 2], [1, 2, 3, 4], [-1, 0, 0], [1.5, 0, 0], [True, 0, 0], [0, MOST_ENDED + 1, 0]],
)
def test_an_impossible_count_is_left_out(value: Any) -> None:
    """Those beside it count."""
    assert counts_in({TASKS: {"bad": value, "x" * 1_000: [1, 1, 1], "good": [3, 2, 1]}}) == {
        "good": TaskCount(3, 2, 1)
    }


@given(st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.lists(st.integers()))
def test_an_impossible_share_is_all_jobs(value: Any) -> None:
    """Whatever the field holds."""
    assert one_in(value) >= 1
    assert isinstance(one_in(value), int)
