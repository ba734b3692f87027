"""Workers that are stopped, killed and restarted; other pools; workers that must not start."""

import json
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.jobs import JobState, split_ref
from pipeline.jobs.keys import Key, Keys
from pipeline.jobs.table import Table
from pipeline.services.environment import Services
from pipeline.wire.taskmessage import TaskHeader, sealed_header
from pipeline.worker.settle.parts import page_tasks
from tests.conftest import MakeEnvironment
from tests.integration import workshop, workshop_limits
from tests.integration.shop import WORKER, Shop, open_shop
from tests.integration.workshop import Batch, Order, Part
from tests.processes import PATIENCE
from tests.proxies import Proxy


@pytest.fixture
def shop(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop of its own, without workers."""
    with open_shop(embedded_services, make_environment, tmp_path_factory.mktemp("shop")) as shop:
        yield shop


def ready(shop: Shop, worker: "subprocess.Popen[bytes]") -> None:
    """Wait until the worker has run something."""
    shop.submit(workshop.make, Order(key=f"ready-{worker.pid}"))
    shop.wait_line(f"ready-{worker.pid}", "end")


# ─── Shutdown ───


def test_sigterm_finishes_what_runs_and_gives_the_rest_back_at_once(shop: Shop) -> None:
    """Exit code 0; the running task is recorded, the waiting ones are there for another worker at once."""
    worker = shop.start(SQS_LEASE_SECONDS="60")
    ready(shop, worker)
    running = shop.submit_many(
        workshop.visit, [Order(key="runs", do="hold"), *[Order(key="waits")] * 3], entity="a"
    )
    more = shop.submit_many(workshop.make, [Order(key=f"runs-{n}", do="hold") for n in range(4)])
    shop.wait_line("runs", "start")
    shop.wait(lambda: len([x for x in shop.all_lines() if x["what"] == "start"]) == 3, "both children busy")
    worker.send_signal(signal.SIGTERM)
    # Those of the entity stay behind its running head; the others are free at once.
    shop.wait(lambda: shop.queue.depth().in_flight <= 2, "given back before the end")
    assert not shop.lines("runs", "end")
    shop.let_go("runs", *(f"runs-{n}" for n in range(4)))
    assert worker.wait(PATIENCE) == 0
    shop.wait_job(running[0])
    assert not shop.lines("waits", "start")
    assert shop.queue.depth().in_flight == 0
    second = shop.start()
    for job_id in running + more:
        shop.wait_job(job_id)
    starts = Counter(line["key"] for line in shop.all_lines() if line["what"] == "start")
    assert starts["runs"] == 1
    assert all(starts[f"runs-{n}"] == 1 for n in range(4))
    assert {line["attempt"] for line in shop.all_lines() if line["what"] == "start"} == {1}
    assert shop.stop(second) == 0


def test_a_warm_shutdown_keeps_its_running_task_longer_than_its_lease(shop: Shop) -> None:
    """The event loop is over by then, in the threads pool; nobody else may start the task while it runs."""
    shop.environment["TASK_MODULES"] = "tests.integration.workshop"
    first = shop.start("--pool", "threads", SQS_LEASE_SECONDS="3")
    ready(shop, first)
    job_id = shop.submit(workshop.make, Order(key="outlasts", do="sleep", seconds=18))
    shop.wait_line("outlasts", "start")
    first.send_signal(signal.SIGTERM)
    second = shop.start()
    shop.wait_job(job_id)
    assert first.wait(PATIENCE) == 0
    assert [line["what"] for line in shop.lines("outlasts")] == ["start", "end"]
    assert shop.stop(second) == 0


def test_a_rolling_deployment_loses_no_task_of_the_newer_version(shop: Shop) -> None:
    """A worker of the older version, which does not know the stage, leaves its task to the newer one."""
    old = shop.start(TASK_MODULES="tests.integration.workshop", UNKNOWN_TASK_SECONDS="60")
    job_id = shop.submit(workshop_limits.slow, Order(key="new-stage"))
    shop.wait(lambda: "task.unknown" in shop.log(), "refused")
    new = shop.start()
    ready(shop, new)
    assert shop.stop(old) == 0
    shop.wait_job(job_id)
    assert len(shop.lines("new-stage", "start")) == 1
    assert shop.stop(new) == 0


def test_sigquit_cuts_off_and_no_attempt_is_counted(shop: Shop) -> None:
    """An interrupted task runs again elsewhere, as if for the first time."""
    first = shop.start()
    ready(shop, first)
    job_id = shop.submit(workshop.once, Order(key="cut", do="sleep", seconds=20, times=1))
    shop.wait_line("cut", "start")
    first.send_signal(signal.SIGQUIT)
    first.wait(PATIENCE)
    shop.children.end(first)
    second = shop.start()
    starts = shop.wait_line("cut", "start", 2)
    assert [line["attempt"] for line in starts] == [1, 1]
    assert shop.job(job_id).state is JobState.RUNNING
    shop.kill(second)


# ─── kill -9 ───


@pytest.mark.parametrize(("kind", "tasks", "kills"), [("embedded", 2_000, 5), ("local", 300, 3)])
def test_kill_9_again_and_again_loses_nothing(
    request: pytest.FixtureRequest,
    make_environment: MakeEnvironment,
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    tasks: int,
    kills: int,
) -> None:
    """Workers are killed with all their children, midway: each task is done, each event emitted."""
    services = request.getfixturevalue(f"{kind}_services")
    numbers = range(tasks - 60)
    with open_shop(
        services, make_environment, tmp_path_factory.mktemp("shop"), SQS_LEASE_SECONDS="3"
    ) as shop:
        job_ids = shop.submit_many(workshop.make, [Order(key=f"n{n}") for n in numbers])
        job_ids += shop.submit_many(
            workshop.visit, [Order(key=f"v{n:02}") for n in range(30)], entity="killed"
        )
        job_ids.append(shop.submit(workshop.pack, Batch(key="b", parts=30)))
        doomed = shop.submit(workshop.make, Order(key="doomed", do="permanent"))
        for kill in range(1, kills + 1):
            worker = shop.start()
            enough = kill * tasks // (kills + 2)
            shop.wait(lambda enough=enough: len(_done(shop)) >= enough, f"{enough} are done")
            shop.kill(worker)
        last = shop.start()
        shop.wait(lambda: not _open(shop, job_ids), "all jobs are complete", 90)
        shop.wait_job(doomed, JobState.FAILED)
        assert shop.wait_letter(doomed).attributes["error"] == "pipeline.errors.PermanentError"
        shop.wait_empty()
        assert _done(shop) >= {f"n{n}" for n in numbers} | {f"v{n:02}" for n in range(30)}
        assert {data["key"] for _, data in shop.events("made")} == {f"n{n}" for n in numbers}
        assert {data["job_id"] for _, data in shop.events("jobs")} == set(job_ids)
        assert {data["job_id"] for _, data in shop.events("errors")} == {doomed}
        visits = [int(x["key"][1:]) for x in shop.all_lines() if x["key"][0] == "v" and x["what"] == "start"]
        assert (visits[0], visits[-1]) == (0, 29)
        # What was not recorded at a kill runs again, from its first.
        steps = [later - sooner for sooner, later in pairwise(visits)]
        assert all(step == 1 or -10 < step <= 0 for step in steps), "an entity's order holds over kills"
        assert [x["total"] for x in shop.lines("b", "gather")][-1] == 30
        assert shop.stop(last) == 0


def _done(shop: Shop) -> set[str]:
    return {line["key"] for line in shop.all_lines() if line["what"] == "end"}


def _open(shop: Shop, job_ids: list[str]) -> list[str]:
    return [job.job_id for job in shop.store.records.get_many(job_ids) if job.state is not JobState.COMPLETE]


def test_a_large_split_leaves_the_queue_to_others(shop: Shop) -> None:
    """However slow its parts are, only some of them are sent ahead, so that others do not wait for all."""
    worker = shop.start()
    ready(shop, worker)
    shop.submit(workshop.pack, Batch(key="slow", parts=1_500, do="sleep", seconds=30))
    shop.wait(lambda: shop.queue.depth().available > 2 * 256 - 10, "its first pages are there")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert shop.queue.depth().available <= 2 * 256 + 2
        time.sleep(0.2)
    shop.kill(worker)


def test_a_large_split_survives_kills(shop: Shop) -> None:
    """Each part is done though workers die while they are sent; its generator ran once, and its gather."""
    worker = shop.start()
    ready(shop, worker)
    large = shop.submit(workshop.pack, Batch(key="large", parts=1_500))
    for enough in (100, 800):
        shop.wait(lambda enough=enough: _parts_done(shop, large) > enough, f"{enough} parts are done")
        shop.kill(worker)
        worker = shop.start()
    shop.wait_job(large, timeout=90)
    shop.wait_empty()
    assert {x["key"] for x in shop.all_lines() if x["what"] == "end"} >= {f"large/{n}" for n in range(1_500)}
    assert len(shop.lines("large", "split")) == 1
    assert [x["total"] for x in shop.lines("large", "gather")] == [1_500]
    assert shop.stop(worker) == 0


def test_parts_that_could_not_be_sent_are_sent_by_a_redrive(shop: Shop) -> None:
    """The page task is a dead letter and its job failed; redriven, it sends them, and one gather has all."""
    job_id = shop.submit(workshop.pack, Batch(key="torn", parts=600))
    page, table = _sealed_page(shop, job_id), Table(shop.settings.dynamodb_table)
    torn = table.get(page)
    table.put_many({page: None})
    worker = shop.start()
    shop.wait_job(job_id, JobState.FAILED, timeout=120)
    table.put_many({page: torn})
    redrive = CliRunner().invoke(main, ["dlq", "redrive", "--job", job_id, "--yes"], env=shop.environment)
    assert redrive.exit_code == 0, redrive.output
    shop.wait_job(job_id, timeout=120)
    assert [x["total"] for x in shop.lines("torn", "gather")] == [600]
    assert [data["total"] for _, data in shop.events("packed")] == [600]
    assert shop.stop(worker) == 0


def _sealed_page(shop: Shop, job_id: str) -> Key:
    """Seal a job's split, as a worker that died then; the key of the page that its last page task sends."""
    header = TaskHeader.read(json.loads(shop.sent[job_id].body)["headers"])
    assert header is not None
    parts = [Part(order=Order(key=f"torn/{n}")).model_dump_json() for n in range(600)]
    data = Batch(key="torn", parts=600).model_dump_json()
    sealed = shop.store.splits.seal(split_ref(header), sealed_header(header, {}), data, parts)
    assert list(page_tasks(sealed, 0)) == [2]
    return Keys(service=shop.settings.service_name).page(sealed.split.split_id, sealed.run, 2)


def _parts_done(shop: Shop, job_id: str) -> int:
    found = shop.store.listing.progress(job_id)
    return sum(stage.done for stage in found[1] if stage.stage == "pack") if found else 0


def test_a_task_that_kills_its_worker_is_found_and_its_neighbours_are_not_blamed(shop: Shop) -> None:
    """It is given up on; what was held with it each time is done."""
    poison = shop.submit(workshop.make, Order(key="poison", do="kill-worker"))
    neighbours = shop.submit_many(workshop.make, [Order(key=f"near-{n}") for n in range(20)])
    stop = threading.Event()

    def keep_starting() -> None:
        while not stop.is_set():
            worker = shop.start(SQS_LEASE_SECONDS="3")
            while worker.poll() is None and not stop.wait(0.1):
                pass
            shop.kill(worker)

    starter = threading.Thread(target=keep_starting)
    starter.start()
    try:
        # Six workers or more start one after the other.
        shop.wait_job(poison, JobState.FAILED, timeout=300)
        for job_id in neighbours:
            shop.wait_job(job_id)
    finally:
        stop.set()
        starter.join()
    letter = shop.wait_letter(poison)
    assert int(letter.attributes["attempts"]) == 3
    assert len(shop.lines("poison", "start")) <= 9


# ─── Other pools ───


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_other_pools_keep_the_same_promises(shop: Shop, pool: str) -> None:
    """Success, retry, exits in user code, a lease outlived, shutdown: as with children."""
    shop.environment["TASK_MODULES"] = "tests.integration.workshop"
    worker = shop.start("--pool", pool)
    wrong = {
        do: shop.submit(workshop.make, Order(key=do, do=do, times=1))
        for do in ("fail", "exit", "memory", "odd", "interrupt")
    }
    given_up = shop.submit(workshop.once, Order(key="given-up", do="exit"))
    batch = shop.submit(workshop.pack, Batch(key="batch", parts=20))
    long = shop.submit(workshop.make, Order(key="long", do="sleep", seconds=6))
    for do, job_id in wrong.items():
        shop.wait_job(job_id)
        assert [line["attempt"] for line in shop.lines(do, "start")] == [1, 2]
    shop.wait_job(given_up, JobState.FAILED)
    shop.wait_job(batch)
    shop.wait_job(long)
    assert len(shop.lines("long", "start")) == 1
    shop.delay("again", "again", 1)
    shop.wait_line("again", "note", 2)
    shop.wait_empty()
    last = shop.submit(workshop.make, Order(key="last", do="sleep", seconds=2))
    shop.wait_line("last", "start")
    assert shop.stop(worker) == 0
    shop.wait_job(last)


def test_sigquit_does_not_break_the_threads_pool(shop: Shop) -> None:
    """It cannot end a running task, so it lets it end, and settles it."""
    shop.environment["TASK_MODULES"] = "tests.integration.workshop"
    worker = shop.start("--pool", "threads")
    job_id = shop.submit(workshop.make, Order(key="runs", do="sleep", seconds=3))
    shop.wait_line("runs", "start")
    shop.stop(worker, signal.SIGQUIT)
    assert len(shop.lines("runs", "end")) == 1
    assert "NotImplementedError" not in shop.log()
    shop.wait_job(job_id)


# ─── Refusals ───


@pytest.mark.parametrize(
    ("options", "variables", "why"),
    [
        (["--pool", "threads"], {}, "slow set a time limit"),
        (["--pool", "solo"], {}, "slow set a time limit"),
        ([], {"SQS_TASK_QUEUE_URL": "http://localhost/1/standard"}, "not a FIFO queue"),
        (["-Q", "nowhere.fifo"], {}, "leave it out of -Q"),
    ],
)
def test_a_worker_that_would_lose_tasks_does_not_start(
    shop: Shop, options: list[str], variables: dict[str, str], why: str
) -> None:
    """Exit code 2 and the reason in one line."""
    ended = subprocess.run(
        [*WORKER, *options],
        env={**shop.environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert why in ended.stderr
    assert ended.stderr.splitlines()[-1][:2] != "  "
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("switch", ["USE_SQS_TASK_PROCESSING", "KAFKA_ENABLED"])
def test_a_worker_that_is_switched_off_takes_nothing(shop: Shop, switch: str) -> None:
    """It waits and says why, and what is in the queue stays there."""
    job_id = shop.submit(workshop.make, Order(key="off"))
    worker = shop.start(**{switch: "false"})
    shop.wait(lambda: "worker.off" in shop.log(), "says so")
    assert switch in next(line for line in shop.log().splitlines() if "worker.off" in line)
    assert shop.queue.depth().available == 1
    assert shop.stop(worker) == 0
    second = shop.start()
    shop.wait_job(job_id)
    assert [line["attempt"] for line in shop.lines("off", "start")] == [1]
    assert shop.stop(second) == 0


# ─── Services away ───


def test_while_dynamodb_is_away_results_wait_and_stay_ours(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For longer than the lease; then they are recorded, and nothing ran twice."""
    with (
        Proxy(embedded_services.environment["AWS_ENDPOINT_URL_DYNAMODB"]) as proxy,
        open_shop(embedded_services, make_environment, tmp_path_factory.mktemp("shop")) as shop,
    ):
        worker = shop.start(AWS_ENDPOINT_URL_DYNAMODB=proxy.url)
        ready(shop, worker)
        shop.wait_empty()
        job_ids = shop.submit_many(workshop.make, [Order(key=f"n{n}", do="hold") for n in range(2)])
        job_ids += shop.submit_many(workshop.visit, [Order(key="v0"), Order(key="v1")], entity="a")
        for key in ("n0", "n1"):
            shop.wait_line(key, "start")
        proxy.cut()
        shop.let_go("n0", "n1")
        for key in ("n0", "n1", "v0"):
            shop.wait_line(key, "end")
        shop.wait(lambda: "service.unanswered" in shop.log(), "says so")
        # The three that ran, and v1 where it was received with the one before it.
        held = shop.queue.depth().in_flight
        assert held in (3, 4)
        away = time.monotonic()
        while time.monotonic() < away + 10:
            assert shop.queue.depth().in_flight == held
            assert not shop.lines("v1"), "before the one before it is recorded"
            time.sleep(0.2)
        proxy.restore()
        for job_id in job_ids:
            shop.wait_job(job_id)
        starts = Counter(x["key"] for x in shop.all_lines() if x["what"] == "start" and x["key"][0] in "nv")
        assert starts == {"n0": 1, "n1": 1, "v0": 1, "v1": 1}
        assert shop.stop(worker) == 0


def test_while_sqs_is_away_a_worker_waits_and_goes_on(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It does not end; what ran is recorded; what comes later is received."""
    with (
        Proxy(embedded_services.environment["AWS_ENDPOINT_URL_SQS"]) as proxy,
        open_shop(embedded_services, make_environment, tmp_path_factory.mktemp("shop")) as shop,
    ):
        worker = shop.start(AWS_ENDPOINT_URL_SQS=proxy.url)
        ready(shop, worker)
        job_id = shop.submit(workshop.make, Order(key="runs", do="sleep", seconds=2))
        shop.wait_line("runs", "start")
        proxy.cut()
        shop.wait(lambda: "queue.unreachable" in shop.log(), "says so")
        shop.wait_job(job_id)
        later = shop.submit(workshop.make, Order(key="later"))
        # Before it is back: the last failure of one receiver may be noted after the first success of another.
        assert shop.log().count("queue.unreachable") == 1
        proxy.restore()
        shop.wait_job(later)
        shop.wait_empty()
        assert len(shop.lines("runs", "start")) == 1
        shop.wait(lambda: "queue.reachable_again" in shop.log(), "says that it is back")
        assert shop.stop(worker) == 0


def test_a_queue_that_is_taken_away_stops_the_worker(shop: Shop) -> None:
    """It would idle for ever; its exit code says that something is wrong."""
    worker = shop.start()
    ready(shop, worker)
    shop.delete_queue()
    assert worker.wait(PATIENCE) == 1
    assert "worker.stopping" in shop.log()
