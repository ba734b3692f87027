"""Results of plain tasks, of a real worker on real queues: what callers see, and when."""

import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import chain, group
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import GroupResult, ResultSet

from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.faults.mishaps import refuse
from tests.faults.wire import Answer, Passage, Wire
from tests.integration import sums, workshop
from tests.integration.shop import BOTH, Shop, open_shop
from tests.processes import PATIENCE

MODULES = f"{BOTH},{sums.__name__}"


@pytest.fixture(scope="module")
def wire(embedded_services: Services) -> Iterator[Wire]:
    """The wire before the services of the worker."""
    servers = {
        "sqs": embedded_services.environment["AWS_ENDPOINT_URL_SQS"],
        "dynamodb": embedded_services.environment["AWS_ENDPOINT_URL_DYNAMODB"],
    }
    with Wire(servers).running() as wire:
        yield wire


@pytest.fixture(scope="module")
def shop(
    embedded_services: Services,
    make_environment: MakeEnvironment,
    tmp_path_factory: pytest.TempPathFactory,
    wire: Wire,
) -> Iterator[Shop]:
    """A shop that keeps results, with one worker whose calls go over the wire."""
    with open_shop(
        embedded_services,
        make_environment,
        tmp_path_factory.mktemp("results"),
        TASK_MODULES=MODULES,
        RESULTS="true",
    ) as shop:
        worker = start(shop, wire)
        yield shop
        assert worker.poll() is None, shop.log()[-8000:]
        assert shop.stop(worker) == 0


def start(shop: Shop, wire: Wire, client: str = "worker") -> Any:
    urls = wire.open(client)
    return shop.start(AWS_ENDPOINT_URL_SQS=urls["sqs"], AWS_ENDPOINT_URL_DYNAMODB=urls["dynamodb"])


def task(shop: Shop, name: str, *args: Any) -> Any:
    """Return a signature of a task that this process does not know."""
    return shop.app.signature(f"{sums.__name__}.{name}", args=args)


# ─── Ends ───


def test_a_result_is_there_and_final(shop: Shop) -> None:
    """Value, state and the time of its end."""
    result = task(shop, "add", 1, 2).apply_async()
    assert result.get(timeout=PATIENCE) == 3
    assert (result.state, result.successful(), result.traceback) == ("SUCCESS", True, None)
    assert abs((datetime.now(UTC) - result.date_done).total_seconds()) < 600
    assert shop.app.AsyncResult(result.id).get(timeout=0) == 3


def test_values_keep_their_types(shop: Shop) -> None:
    """As Celery's JSON keeps them."""
    value = task(shop, "typed").apply_async().get(timeout=PATIENCE)
    assert value == {"at": datetime(2026, 1, 2, tzinfo=UTC), "id": uuid.UUID(int=7), "text": "漢字 🦊"}


def test_it_is_seen_within_half_a_second_of_its_record(shop: Shop, wire: Wire) -> None:
    """Also by a caller who waited for long, whose pauses have grown."""
    written: list[float] = []

    async def note(passage: Passage) -> Answer | None:
        answer = await passage.forward()
        written.append(time.monotonic())
        return answer

    gate = shop.folder / "late"
    result = task(shop, "step", str(gate)).apply_async()
    shop.wait(lambda: result.state == "PROGRESS", "it runs")
    with wire.rule(note, "BatchExecuteStatement", "UpdateItem", client="worker"):
        threading.Timer(2, gate.touch).start()
        result.get(timeout=PATIENCE)
        seen = time.monotonic()
    assert seen - written[-1] < 0.5


def test_a_failure_has_class_arguments_and_traceback(shop: Shop) -> None:
    """An error of the project's own comes back as itself; it was tried as often as it may."""
    result = task(shop, "overdraw", "a-1").apply_async()
    with pytest.raises(sums.OverdrawnError) as caught:
        result.get(timeout=PATIENCE)
    assert (caught.value.account, caught.value.missing) == ("a-1", 12)
    assert result.failed()
    assert "in overdraw" in result.traceback
    assert shop.wait_letter(result.id).attributes["attempts"] == "3"


def test_a_traceback_hides_what_looks_like_a_secret(shop: Shop) -> None:
    """As everywhere a traceback is kept."""
    result = task(shop, "refuse", "hunter2hunter2").apply_async()
    result.get(timeout=PATIENCE, propagate=False)
    assert "no such user" in result.traceback
    assert "hunter2" not in result.traceback


@pytest.mark.parametrize(("name", "error"), [("die", "WorkerLostError"), ("leave", "SystemExit")])
def test_a_killed_run_fails_and_never_ends_its_reader(shop: Shop, name: str, error: str) -> None:
    """What ends a process is an exception like any other to who asks."""
    failure = task(shop, name).apply_async().get(timeout=PATIENCE, propagate=False)
    assert isinstance(failure, Exception)
    assert type(failure).__name__ == error


def test_while_it_is_tried_again_it_is_no_failure(shop: Shop) -> None:
    """RETRY between the attempts; the end is what the last one made."""
    gate = shop.folder / "is-back"
    result = task(shop, "fail_until", str(gate)).apply_async()
    shop.wait(lambda: result.state == "RETRY", "it is tried again")
    assert isinstance(result.result, ConnectionError)
    gate.touch()
    assert result.get(timeout=PATIENCE) == "in the end"


def test_celerys_own_retry_is_one_task(shop: Shop) -> None:
    """The same id: RETRY, then the result of the message that it published."""
    gate = shop.folder / "again"
    result = task(shop, "again", str(gate)).apply_async()
    shop.wait(lambda: result.state == "RETRY", "it published itself again")
    gate.touch()
    assert result.get(timeout=PATIENCE) == 1


def test_a_revoked_task_says_so(shop: Shop) -> None:
    """Once a worker receives it; so does one that expired."""
    later = task(shop, "add", 1, 1).apply_async(countdown=6)
    assert shop.app.control.revoke(later.id, reply=True, destination=["w0@test"], timeout=PATIENCE)
    with pytest.raises(TaskRevokedError, match="revoked"):
        later.get(timeout=PATIENCE)
    expired = task(shop, "add", 1, 1).apply_async(expires=datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(TaskRevokedError, match="expired"):
        expired.get(timeout=PATIENCE)
    assert expired.state == "REVOKED"


def test_the_tasks_behind_a_failed_one_in_its_chain_fail(shop: Shop) -> None:
    """Who waits for the end of a chain is told."""
    last = chain(
        task(shop, "overdraw", "chain"), task(shop, "step", "never"), task(shop, "add", 1)
    ).apply_async()
    for result in (last, last.parent):
        with pytest.raises(sums.OverdrawnError):
            result.get(timeout=PATIENCE, follow_parents=False)


@pytest.mark.parametrize(
    ("name", "args", "why"), [("object_of_its_own", (), "not JSON"), ("large", (400_000,), "PAYLOAD_BUCKET")]
)
def test_what_cannot_be_stored_is_a_dead_letter_at_once(
    shop: Shop, name: str, args: tuple[int, ...], why: str
) -> None:
    """Another run would return the same; the result says what to change."""
    result = task(shop, name, *args).apply_async()
    with pytest.raises(Exception, match=why):
        result.get(timeout=PATIENCE)
    assert shop.wait_letter(result.id).attributes["attempts"] == "1"


# ─── While it runs ───


def test_a_task_tells_how_far_it_is(shop: Shop) -> None:
    """A state of its own with data; ``on_message`` sees each one."""
    gate = shop.folder / "step"
    result = task(shop, "step", str(gate)).apply_async()
    seen: list[tuple[str, Any]] = []

    def note(meta: dict[str, Any]) -> None:
        seen.append((meta["status"], meta["result"]))
        gate.touch()

    assert result.get(timeout=PATIENCE, on_message=note) == "done"
    assert seen == [("PROGRESS", {"done": 3}), ("SUCCESS", "done")]


def test_a_started_task_says_who_runs_it(shop: Shop) -> None:
    """With ``track_started``; its end replaces that."""
    gate = shop.folder / "tracked"
    result = task(shop, "tracked", str(gate)).apply_async()
    shop.wait(lambda: result.state == "STARTED", "it started")
    assert result.result["pid"]
    with pytest.raises(CeleryTimeoutError):
        result.get(timeout=0.2)
    gate.touch()
    assert result.get(timeout=PATIENCE) is None
    assert result.state == "SUCCESS"


def test_a_task_may_say_itself_how_it_ended(shop: Shop) -> None:
    """``update_state`` and ``Ignore``, as Celery's documentation has it."""
    with pytest.raises(ValueError, match="by hand"):
        task(shop, "own_end").apply_async().get(timeout=PATIENCE)


# ─── Several ───


def test_a_group_gives_its_results_in_order(shop: Shop) -> None:
    """More than are read in one request; saved and found by its id."""
    result = group(task(shop, "add", number, 1) for number in range(130)).apply_async()
    result.save()
    assert result.get(timeout=PATIENCE) == list(range(1, 131))
    found = GroupResult.restore(result.id, app=shop.app)
    assert found == result
    assert found.join(timeout=PATIENCE) == list(range(1, 131))
    assert found.completed_count() == 130
    found.delete()
    assert GroupResult.restore(result.id, app=shop.app) is None


def test_children_are_what_a_task_published(shop: Shop) -> None:
    """``collect`` follows them."""
    result = task(shop, "parent", [1, 2]).apply_async()
    assert result.get(timeout=PATIENCE) == "published"
    assert [child.get(timeout=PATIENCE) for child in result.children] == [2, 3]
    assert [value for _, value in result.collect(timeout=PATIENCE)] == ["published", 2, 3]


def test_a_set_of_results_is_asked_at_once(shop: Shop) -> None:
    """Whatever tasks they are of; one without a result has None."""
    some = ResultSet(
        [
            task(shop, "add", 2, 2).apply_async(),
            task(shop, "unkept", str(shop.folder / "set")).apply_async(ignore_result=True),
        ],
        app=shop.app,
    )
    assert some.get(timeout=PATIENCE) == [4, None]


def test_a_forgotten_result_is_gone(shop: Shop) -> None:
    """As if the task had never been."""
    result = task(shop, "add", 5, 5).apply_async()
    assert result.get(timeout=PATIENCE) == 10
    result.forget()
    assert shop.app.AsyncResult(result.id).state == "PENDING"


# ─── Promises ───


def test_a_task_without_a_result_asks_the_table_for_nothing(shop: Shop, wire: Wire) -> None:
    """It runs, its message is deleted, and no call to DynamoDB names it."""
    path = shop.folder / "unkept"
    asked: list[str] = []

    async def note(passage: Passage) -> Answer | None:
        asked.append(passage.text)
        return await passage.forward()

    with wire.rule(note, client="worker", server="dynamodb"):
        result = task(shop, "unkept", str(path)).apply_async(ignore_result=True)
        shop.wait(path.exists, "it ran")
        shop.wait_empty()
        kept = task(shop, "add", 0, 0).apply_async()
        kept.get(timeout=PATIENCE)
    assert not [text for text in asked if result.id in text]
    assert len([text for text in asked if kept.id in text]) == 1
    assert result.get(timeout=PATIENCE) is None


def test_a_stage_keeps_its_result_in_its_job_alone(shop: Shop) -> None:
    """Whatever RESULTS says."""
    job_id = shop.submit(workshop.make, workshop.Order(key="of-a-stage"))
    shop.wait_job(job_id)
    assert shop.store.results.get(shop.sent[job_id].deduplication_id) is None


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_worker_killed_before_the_delete_leaves_one_result(
    embedded_services: Services, make_environment: MakeEnvironment, wire: Wire, tmp_path: Path, is_lost: bool
) -> None:
    """The message comes again, and runs no code where its result was recorded; else it runs once more."""
    lines = tmp_path / "runs"
    with open_shop(
        embedded_services, make_environment, tmp_path, TASK_MODULES=MODULES, RESULTS="true"
    ) as shop:
        doomed = start(shop, wire, "doomed")
        with wire.rule(refuse, "DeleteMessageBatch", client="doomed") as refused:
            result = task(shop, "run_once", str(lines)).apply_async()
            first = result.get(timeout=PATIENCE)
            shop.wait(lambda: refused.hits, "a delete is refused")
            shop.kill(doomed)
        if is_lost:
            result.forget()
        survivor = start(shop, wire, "survivor")
        shop.wait_empty()
        again = shop.app.AsyncResult(result.id).get(timeout=PATIENCE)
        assert shop.stop(survivor) == 0
    runs = lines.read_text().count("run")
    assert (runs, again == first) == ((2, False) if is_lost else (1, True))
