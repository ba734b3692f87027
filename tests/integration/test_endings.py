"""Plain tasks end as Celery documents it: rejected, ignored, expired, revoked, with Celery's signals."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.canvas import StampingVisitor

from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.integration.shop import Shop, open_shop
from tests.processes import PATIENCE

MODULE = "tests.integration.endings"


@pytest.fixture(scope="module")
def shop(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop with one worker of two processes."""
    folder = tmp_path_factory.mktemp("shop")
    with open_shop(
        embedded_services,
        make_environment,
        folder,
        TASK_MODULES=MODULE,
        CONTROL_COMMANDS="revoke,revoke_by_stamped_headers",
    ) as shop:
        shop.start()
        yield shop


def publish(shop: Shop, name: str, *args: object, **options: Any) -> str:
    """Publish one of the tasks; its id."""
    return str(shop.app.signature(f"{MODULE}.{name}", args=args).apply_async(**options).id)


def signals_of(shop: Shop, task_id: str) -> list[str]:
    """The names of the signals sent for a task, in order."""
    return [line["what"] for line in shop.lines(task_id) if line["what"].startswith("task_")]


def test_a_rejected_message_is_a_dead_letter_at_once(shop: Shop) -> None:
    """``Reject`` without ``requeue``: one run, its failure is signalled, and a person can see it."""
    task_id = publish(shop, "reject", False)
    letter = shop.wait_letter(task_id)
    assert letter.attributes["error"] == "celery.exceptions.Reject"
    assert "not here" in letter.attributes["reason"]
    assert len(shop.lines(task_id, "start")) == 1
    assert signals_of(shop, task_id) == ["task_received", "task_prerun", "task_postrun", "task_failure"]


def test_a_message_rejected_with_requeue_comes_again_at_once(shop: Shop) -> None:
    """It is redelivered, which its request says, and no attempt is counted."""
    task_id = publish(shop, "reject", True, 1)
    first, second = shop.wait_line(task_id, "start", 2)
    assert (first["redelivered"], second["redelivered"]) == (False, True)
    shop.wait_line(task_id, "task_success")
    shop.wait_empty()
    assert "task_failure" not in signals_of(shop, task_id)
    (done,) = [line for line in shop.log().splitlines() if "task.done" in line and task_id in line]
    assert '"attempt": 1' in done


def test_a_message_rejected_again_and_again_is_a_dead_letter(shop: Shop) -> None:
    """A loop of ``Reject`` with ``requeue`` ends: a message that is only received may kill workers."""
    task_id = publish(shop, "reject", True)
    shop.wait_letter(task_id)
    assert 3 < len(shop.lines(task_id, "start")) < 12


def test_an_ignored_task_is_deleted(shop: Shop) -> None:
    """Its run is over, and neither a success nor a failure."""
    task_id = publish(shop, "ignore")
    shop.wait_line(task_id, "task_postrun")
    shop.wait_empty()
    assert signals_of(shop, task_id) == ["task_received", "task_prerun", "task_postrun"]


def test_an_expired_task_is_revoked(shop: Shop) -> None:
    """It does not run; the signal says why."""
    task_id = publish(shop, "plain", expires=datetime.now(UTC) - timedelta(seconds=5))
    (line,) = shop.wait_line(task_id, "task_revoked")
    assert (line["expired"], line["terminated"]) == (True, False)
    shop.wait_empty()
    assert not shop.lines(task_id, "start")


def test_tasks_are_revoked_by_a_stamp(shop: Shop) -> None:
    """``revoke_by_stamped_headers``: those with the stamp do not run, the others do."""

    class Visitor(StampingVisitor):  # type: ignore[misc]
        def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"customer": "seven", "stamped_headers": ["customer"]}

    (answer,) = shop.app.control.revoke_by_stamped_headers(
        {"customer": ["seven"]}, reply=True, timeout=PATIENCE, limit=1
    )
    assert "ok" in answer["w0@test"]
    stamped = shop.app.signature(f"{MODULE}.plain")
    stamped.stamp(visitor=Visitor())
    revoked, other = str(stamped.apply_async().id), publish(shop, "plain")
    shop.wait_line(revoked, "task_revoked")
    shop.wait_line(other, "start")
    shop.wait_empty()
    assert not shop.lines(revoked, "start")


def test_a_running_task_is_terminated_and_comes_no_more(shop: Shop) -> None:
    """``revoke(terminate=True)``: its process ends, and its message is deleted."""
    task_id = publish(shop, "held")
    shop.wait_line(task_id, "start")
    shop.app.control.revoke(task_id, terminate=True, signal="SIGKILL", reply=True, timeout=PATIENCE, limit=1)
    (line,) = shop.wait_line(task_id, "task_revoked")
    assert line["terminated"]
    shop.wait_empty()
    assert len(shop.lines(task_id, "start")) == 1


@pytest.mark.parametrize(
    ("name", "signals"),
    [
        ("plain", ["task_received", "task_prerun", "task_success", "task_postrun"]),
        ("fail", ["task_received", "task_prerun", "task_failure", "task_postrun"]),
    ],
)
def test_the_signals_of_a_run_are_sent(shop: Shop, name: str, signals: list[str]) -> None:
    """In Celery's order; of a failing task again at each run."""
    task_id = publish(shop, name)
    shop.wait(lambda: len(signals_of(shop, task_id)) >= len(signals), "signals")
    assert signals_of(shop, task_id)[: len(signals)] == signals


def test_the_signals_of_a_retry_and_of_a_publish_are_sent(shop: Shop) -> None:
    """A retry is a run and a publish of the same task."""
    task_id = publish(shop, "retry_once")
    shop.wait_line(task_id, "task_success")
    sent = [line["what"] for line in shop.lines(task_id)]
    for name in ("task_retry", "before_task_publish", "after_task_publish"):
        assert sent.count(name) == 1, name
    parent = publish(shop, "publish")
    published = f"{parent}-next"
    shop.wait_line(published, "start")
    assert [line["what"] for line in shop.lines(published)][:2] == [
        "before_task_publish",
        "after_task_publish",
    ]
