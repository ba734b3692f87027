"""The worker's list of cancelled jobs."""

from typing import cast

from pipeline.errors import ServiceUnavailableError
from pipeline.jobs import JobStore
from pipeline.worker import cancelled as cancelled_module
from pipeline.worker.cancelled import CLOCKS_DIFFER, CancelledJobs
from tests.loglines import log_lines
from tests.processes import wait_until


class Store:
    """The part of a store that is asked, and may be away."""

    def __init__(self) -> None:
        self.jobs: set[str] = set()
        self.asked: list[float] = []
        self.away = False
        self.broken = False

    def cancelled_since(self, moment: float) -> set[str]:
        self.asked.append(moment)
        if self.away:
            raise ServiceUnavailableError("away")
        if self.broken:
            raise KeyError("nobody expected it")
        return set(self.jobs) if moment == 0 else self.jobs - {"old"}


def test_all_are_known_at_the_start_and_new_ones_soon() -> None:
    """The first read has all; the next only what may be new, and what is known stays known."""
    store = Store()
    store.jobs = {"old"}
    cancelled = CancelledJobs(cast(JobStore, store), every=0.01)
    cancelled.start()
    try:
        assert "old" in cancelled
        store.jobs.add("new")
        wait_until(lambda: "new" in cancelled, "it is heard of")
        assert "old" in cancelled
        assert "another" not in cancelled
        assert store.asked[0] == 0
        assert store.asked[1] > 0
    finally:
        cancelled.close()


def test_while_dynamodb_is_away_what_is_known_holds() -> None:
    """A worker starts and works without it; what was cancelled meanwhile is read once it is back."""
    store = Store()
    store.away = True
    cancelled = CancelledJobs(cast(JobStore, store), every=0.01)
    cancelled.start()
    try:
        store.jobs = {"j"}
        wait_until(lambda: len(store.asked) > 2, "it is asked again")
        assert "j" not in cancelled
        assert set(store.asked) == {0.0}, "nothing was read yet, so all is asked for"
        store.away = False
        wait_until(lambda: "j" in cancelled, "it is heard of")
        read = len(store.asked)
        wait_until(lambda: len(store.asked) > read + 1, "it is asked again")
        assert store.asked[-1] > CLOCKS_DIFFER
    finally:
        cancelled.close()


def test_what_nobody_expected_is_said_and_the_next_look_is_made() -> None:
    """A worker in which the looking ended unseen would run what is cancelled for as long as it lives."""
    store = Store()
    cancelled = CancelledJobs(cast(JobStore, store), every=0.01)
    cancelled.start()
    try:
        with log_lines(cancelled_module) as lines:
            store.broken = True
            wait_until(lambda: lines, "it is said")
            store.jobs, store.broken = {"j"}, False
            wait_until(lambda: "j" in cancelled, "it is heard of")
        assert lines[0]["event"] == "cancelled_jobs.failed"
    finally:
        cancelled.close()
