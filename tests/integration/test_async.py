"""The real worker with async stages and tasks: many wait on a loop, and end as those of the pool do."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from pipeline.jobs import JobState
from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.integration import bureau, bureau_limits
from tests.integration.bureau import Call
from tests.integration.shop import Shop, open_shop

#: Runs of a loop child at a time. The worker has two.
EACH = 40


@pytest.fixture(scope="module")
def shop(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop with one worker of two processes and two loop children that all tests of this module share."""
    with open_shop(
        embedded_services,
        make_environment,
        tmp_path_factory.mktemp("bureau"),
        (
            bureau.ask,
            bureau.ask_in_turn,
            bureau_limits.ask_briefly,
            bureau_limits.ask_within,
            bureau.poll,
        ),
        TASK_MODULES="tests.integration.bureau,tests.integration.bureau_limits",
        ASYNC_CONCURRENCY=str(EACH),
    ) as shop:
        worker = shop.start()
        yield shop
        assert worker.poll() is None, "something ended the worker:\n" + shop.log()[-8000:]
        assert shop.stop(worker) == 0


def plain(shop: Shop, name: str, *args: object) -> str:
    """Publish a plain task of the bureau; its id."""
    return str(shop.app.signature(f"tests.integration.bureau.{name}", args=args).apply_async().id)


def started(shop: Shop, keys: list[str]) -> dict[str, int]:
    """Return the process of each key that has begun, of its last run."""
    return {
        line["key"]: line["pid"]
        for line in shop.all_lines()
        if line["what"] == "start" and line["key"] in keys
    }


def test_all_slots_of_the_loops_wait_at_once_and_pool_processes_are_free(shop: Shop) -> None:
    """As many runs as both loops have slots, evenly; a task of the pool runs beside them."""
    keys = [f"many-{number}" for number in range(2 * EACH)]
    jobs = shop.submit_many(bureau.ask, [Call(key=key, do="hold") for key in keys])
    shop.wait(lambda: len(started(shop, keys)) >= 2 * EACH, "all slots are taken")
    plain(shop, "nap", "nap", 0.1)
    shop.wait_line("nap", "end")
    running = started(shop, keys)
    pids = list(running.values())
    assert sorted(pids.count(pid) for pid in set(pids)) == [EACH, EACH]
    shop.let_go(*keys)
    for job in jobs:
        shop.wait_job(job)
    assert all(len(shop.lines(key, "start")) == 1 for key in keys)


def test_runs_beyond_the_slots_wait_for_them(shop: Shop) -> None:
    """No loop child has more than its number at a time."""
    jobs = shop.submit_many(
        bureau.ask, [Call(key=f"queue-{number}", seconds=0.2) for number in range(5 * EACH)]
    )
    for job in jobs:
        shop.wait_job(job)
    running: dict[int, int] = {}
    for line in shop.all_lines():
        if line["key"].startswith("queue-"):
            running[line["pid"]] = running.get(line["pid"], 0) + (1 if line["what"] == "start" else -1)
            assert running[line["pid"]] <= EACH


def test_celerys_current_task_is_that_of_the_code_that_asks(shop: Shop) -> None:
    """Beside many others of the same task on the same loop, before and after each wait."""
    ids = [plain(shop, "note", f"note-{number}") for number in range(EACH)]
    for number in range(EACH):
        shop.wait_line(f"note-{number}", "end")
    shop.wait_empty()
    assert not [task_id for task_id in ids if f'"task_id": "{task_id}", "attempt": 2' in shop.log()]


def test_plain_async_tasks_retry_as_celery_does(shop: Shop) -> None:
    """``self.retry`` within the coroutine, and ``autoretry_for`` around it, publish the next attempt."""
    plain(shop, "note", "retried", "celery-retry")
    plain(shop, "insist", "insisted")
    shop.wait_line("retried", "end")
    shop.wait_line("insisted", "end")
    assert [line["attempt"] for line in shop.lines("insisted", "start")] == [1, 2]


def test_the_tasks_of_an_entity_run_in_order(shop: Shop) -> None:
    """One at a time, although a loop has slots for all; a failing one holds up those behind it."""
    jobs = shop.submit_many(
        bureau.ask_in_turn,
        [
            Call(key="turn-0", seconds=0.2),
            Call(key="turn-1", do="fail", times=1),
            Call(key="turn-2", seconds=0.1),
        ],
        entity="turns",
    )
    for job in jobs:
        shop.wait_job(job)
    lines = [(line["key"], line["what"]) for line in shop.all_lines() if line["key"].startswith("turn-")]
    assert lines == [
        ("turn-0", "start"),
        ("turn-0", "end"),
        ("turn-1", "start"),
        ("turn-1", "start"),
        ("turn-1", "end"),
        ("turn-2", "start"),
        ("turn-2", "end"),
    ]


def test_split_parts_and_gather_are_async(shop: Shop) -> None:
    """An async generator makes the parts, and an async function reads all results."""
    job = shop.submit(bureau.poll, Call(key="polled", parts=250))
    shop.wait_job(job)
    (gathered,) = shop.lines("polled", "gather")
    assert gathered["total"] == sum(len(f"polled/{number}") for number in range(250))


def test_the_soft_limit_cancels_what_a_run_awaits(shop: Shop) -> None:
    """The code may tidy up and return; else it fails with Celery's exception. Others on the loop go on."""
    other = shop.submit(bureau.ask, Call(key="beside-soft", seconds=3))
    tidy = shop.submit(bureau_limits.ask_briefly, Call(key="soft-tidy", do="tidy"))
    ended = shop.submit(bureau_limits.ask_briefly, Call(key="soft", do="hold"))
    shop.wait_job(tidy)
    shop.wait_job(ended, JobState.FAILED)
    assert shop.lines("soft", "cancelled")
    assert "SoftTimeLimitExceeded" in str(shop.wait_letter(ended).attributes)
    assert "task.soft_time_limit" in shop.log()
    shop.wait_job(other)
    assert len(shop.lines("beside-soft", "start")) == 1


def test_the_hard_limit_cancels_a_run_and_kills_its_process_only_if_that_resists(shop: Shop) -> None:
    """The others on the loop of one that resists run again, and no attempt of theirs is counted."""
    gentle = shop.submit(bureau_limits.ask_within, Call(key="hard", do="hold"))
    shop.wait_job(gentle, JobState.FAILED)
    assert shop.lines("hard", "cancelled")
    assert "TimeLimitExceeded(2" in str(shop.wait_letter(gentle).attributes)
    others = [f"beside-hard-{number}" for number in range(6)]
    jobs = shop.submit_many(bureau.ask, [Call(key=key, do="hold") for key in others])
    resisting = shop.submit(bureau_limits.ask_within, Call(key="resist", do="resist"))
    shop.wait(lambda: len(started(shop, others)) == len(others), "all run")
    (line,) = shop.wait_line("resist", "start")
    beside = [key for key, pid in started(shop, others).items() if pid == line["pid"]]
    assert 0 < len(beside) < len(others)
    shop.wait_job(resisting, JobState.FAILED)
    assert "TimeLimitExceeded(2" in str(shop.wait_letter(resisting).attributes)
    run_again(shop, others, jobs, beside)


def run_again(shop: Shop, keys: list[str], jobs: list[str], ended: list[str]) -> None:
    """The runs of ``ended`` begin a second time, as a first attempt, and all of ``keys`` end well."""
    for key in ended:
        shop.wait_line(key, "start", 2)
    shop.let_go(*keys)
    for job in jobs:
        shop.wait_job(job)
    for key in keys:
        attempts = [line["attempt"] for line in shop.lines(key, "start")]
        assert attempts == ([1, 1] if key in ended else [1]), key


def test_a_killed_loop_child_costs_its_runs_no_attempt(shop: Shop) -> None:
    """All of them run again at once: nothing says which of them ended it."""
    keys = [f"killed-{number}" for number in range(EACH)]
    jobs = shop.submit_many(bureau.ask, [Call(key=key, do="hold") for key in keys])
    shop.wait(lambda: len(started(shop, keys)) == len(keys), "all run")
    before = started(shop, keys)
    pid = before[keys[0]]
    killed_at = time.time()
    os.kill(pid, signal.SIGKILL)
    ended = [key for key, each in before.items() if each == pid]
    run_again(shop, keys, jobs, ended)
    assert len(ended) >= EACH // 2
    assert max(shop.lines(key, "start")[1]["at"] for key in ended) < killed_at + 20


def test_a_run_that_kills_its_process_each_time_becomes_a_dead_letter(shop: Shop) -> None:
    """It is found although its neighbours end with it, and these are done."""
    jobs = shop.submit_many(bureau.ask, [Call(key=f"victim-{number}", seconds=0.5) for number in range(8)])
    poison = shop.submit(bureau.ask, Call(key="poison", do="kill"))
    shop.wait_job(poison, JobState.FAILED)
    shop.wait_letter(poison)
    for job in jobs:
        shop.wait_job(job)


def test_a_revoke_with_terminate_ends_one_run_only(shop: Shop) -> None:
    """The signal goes to a process with many runs, so the run is cancelled instead."""
    other = shop.submit(bureau.ask, Call(key="beside-revoked", do="hold"))
    task_id = str(
        shop.app.signature("tests.integration.bureau.note", args=("revoked", "hold")).apply_async().id
    )
    shop.wait_line("revoked", "start")
    shop.wait_line("beside-revoked", "start")
    shop.app.control.revoke(task_id, terminate=True, signal="SIGKILL")
    shop.wait_line("revoked", "cancelled")
    shop.let_go("beside-revoked")
    shop.wait_job(other)
    shop.wait_empty()
    assert len(shop.lines("beside-revoked", "start")) == len(shop.lines("revoked", "start")) == 1


def test_an_exit_in_a_coroutine_is_a_failure_of_its_task(shop: Shop) -> None:
    """It ends neither the loop nor the worker."""
    other = shop.submit(bureau.ask, Call(key="beside-exit", seconds=1))
    job = shop.submit(bureau.ask, Call(key="exit", do="exit", times=1))
    shop.wait_job(job)
    shop.wait_job(other)
    assert len(shop.lines("exit", "start")) == 2
    assert len(shop.lines("beside-exit", "start")) == 1


def test_a_function_that_blocks_the_loop_is_logged_with_its_stack(shop: Shop) -> None:
    """All runs of the loop stand still meanwhile, and nothing else would say why."""
    job = shop.submit(bureau.ask, Call(key="blocks", do="block", seconds=4))
    shop.wait_job(job)
    blocked = [line for line in shop.log().splitlines() if "loop.blocked" in line]
    assert blocked
    assert "time.sleep(call.seconds)" in blocked[0]
