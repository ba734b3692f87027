"""How workers with async tasks end, and those whose pool has threads: each test has workers of its own."""

import signal
import subprocess
from collections.abc import Iterator

import pytest

from pipeline.jobs import JobState
from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.integration import bureau
from tests.integration.bureau import Call
from tests.integration.shop import Shop, open_shop
from tests.processes import PATIENCE


@pytest.fixture
def shop(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop whose workers each test starts."""
    with open_shop(
        embedded_services,
        make_environment,
        tmp_path_factory.mktemp("bureau"),
        (bureau.ask, bureau.poll),
        TASK_MODULES="tests.integration.bureau",
    ) as shop:
        yield shop


def hold(shop: Shop, keys: list[str]) -> list[str]:
    """Start runs that wait for the test; their jobs."""
    jobs = shop.submit_many(bureau.ask, [Call(key=key, do="hold") for key in keys])
    for key in keys:
        shop.wait_line(key, "start")
    return jobs


def test_a_warm_shutdown_waits_for_what_runs_on_loops(shop: Shop) -> None:
    """For longer than the leases; it settles all, and none runs again."""
    worker = shop.start()
    keys = [f"warm-{number}" for number in range(20)]
    jobs = hold(shop, keys)
    worker.send_signal(signal.SIGTERM)
    shop.wait(lambda: "Warm shutdown" in shop.log(), "it was told")
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(6)  # longer than a lease
    shop.let_go(*keys)
    assert worker.wait(PATIENCE) == 0
    for job in jobs:
        shop.wait_job(job)
    assert all(len(shop.lines(key, "start")) == 1 for key in keys)
    assert shop.queue.depth().in_flight == 0


def test_sigquit_cancels_what_runs_on_loops_and_counts_no_attempt(shop: Shop) -> None:
    """The code is cancelled, and another worker runs all of them as if for the first time."""
    worker = shop.start()
    keys = [f"cold-{number}" for number in range(20)]
    jobs = hold(shop, keys)
    worker.send_signal(signal.SIGQUIT)
    worker.wait(PATIENCE)
    shop.children.end(worker)
    assert all(shop.lines(key, "cancelled") for key in keys)
    second = shop.start()
    shop.let_go(*keys)
    for job in jobs:
        shop.wait_job(job)
    assert all([line["attempt"] for line in shop.lines(key, "start")] == [1, 1] for key in keys)
    assert shop.stop(second) == 0


def test_a_killed_worker_takes_its_loop_children_along(shop: Shop) -> None:
    """kill -9 of the parent alone: another worker runs all of them once the leases are over."""
    worker = shop.start()
    keys = [f"orphan-{number}" for number in range(20)]
    jobs = hold(shop, keys)
    worker.kill()
    second = shop.start()
    for key in keys:
        shop.wait_line(key, "start", 2)
    shop.let_go(*keys)
    for job in jobs:
        shop.wait_job(job)
    assert all(len(shop.lines(key, "end")) == 1 for key in keys)
    assert shop.stop(second) == 0


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_other_pools_run_async_tasks_one_at_a_time(shop: Shop, pool: str) -> None:
    """Each thread has a loop of its own: success, retry, an exit, splits, plain tasks."""
    worker = shop.start("--pool", pool)
    failed = shop.submit(bureau.ask, Call(key="fail", do="fail", times=1))
    exited = shop.submit(bureau.ask, Call(key="exit", do="exit", times=1))
    polled = shop.submit(bureau.poll, Call(key="polled", parts=20))
    shop.app.signature("tests.integration.bureau.note", args=("note",)).apply_async()
    for job in (failed, exited, polled):
        shop.wait_job(job, JobState.COMPLETE)
    shop.wait_line("note", "end")
    assert [line["attempt"] for line in shop.lines("exit", "start")] == [1, 2]
    assert shop.stop(worker) == 0
