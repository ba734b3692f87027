"""Clients that were not converted publish with kombu's own SQS transport; a real worker runs their tasks."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chain
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.integration.shop import Shop, open_shop
from tests.stock import stock_app


@pytest.fixture(scope="module")
def shop(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop with one worker of two children that all tests of this module share."""
    with open_shop(embedded_services, make_environment, tmp_path_factory.mktemp("stock")) as shop:
        worker = shop.start()
        yield shop
        assert worker.poll() is None, "something ended the worker:\n" + shop.log()[-8000:]
        assert shop.stop(worker) == 0


@pytest.fixture(params=[2, 1], ids=["protocol 2", "protocol 1"])
def stock(shop: Shop, request: pytest.FixtureRequest) -> Celery:
    """An app that publishes with kombu's SQS transport to the shop's queue."""
    return stock_app(shop.queue.url, task_protocol=request.param)


def signature(stock: Celery, name: str, *args: Any, **options: Any) -> Any:
    return stock.signature(f"tests.integration.workshop.{name}", args=args, options=options)


def key_of(stock: Celery, name: str) -> str:
    return f"{name}-{stock.conf.task_protocol}"


def dlq(shop: Shop, *arguments: str) -> str:
    """What ``pipeline dlq`` prints."""
    result = CliRunner().invoke(main, ["dlq", *arguments], env=shop.environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def letters(shop: Shop, text: str) -> list[dict[str, Any]]:
    """The dead letters with that text in their facts."""
    return [json.loads(line) for line in dlq(shop, "list", "--json").splitlines() if text in line]


def wait_letter(shop: Shop, text: str) -> dict[str, Any]:
    """Wait for the dead letter with that text in its facts."""
    shop.wait(lambda: letters(shop, text), f"a dead letter with {text}")
    (letter,) = letters(shop, text)
    return letter


def test_a_task_runs_once_with_its_arguments(shop: Shop, stock: Celery) -> None:
    """It is deleted then; the arguments arrive as they were given."""
    key = key_of(stock, "stock")
    signature(stock, "note", key, 1, {"größer": "漢字 🦊"}).apply_async()
    (line,) = shop.wait_line(key, "note")
    assert line["args"] == [1, {"größer": "漢字 🦊"}]
    shop.wait_empty()


def test_a_message_group_keeps_its_order_when_its_head_fails(shop: Shop, stock: Celery) -> None:
    """The head is tried again before the tasks behind it; a converted client's task takes its place there."""
    key = key_of(stock, "ordered")
    group = f"customer-{key}"
    signature(stock, "do", {"key": key, "do": "fail"}).apply_async(MessageGroupId=group)
    for number in range(3):
        signature(stock, "note", key, number).apply_async(MessageGroupId=group)
    shop.delay("note", key, 3, headers={"message_group": group})
    shop.wait_line(key, "note", 4)
    lines = shop.lines(key)
    assert [line["what"] for line in lines] == ["start"] * 3 + ["note"] * 4
    assert [line["args"] for line in lines[3:]] == [[0], [1], [2], [3]]
    shop.wait_empty()


def test_celerys_own_retries_stay_in_the_group(shop: Shop, stock: Celery) -> None:
    """What the worker publishes for the task is in the group that the client named."""
    task_id = signature(stock, "again", key_of(stock, "again"), 1_000).apply_async(MessageGroupId="g-7").id
    letter = wait_letter(shop, task_id)
    assert letter["group_id"] == "g-7"
    assert len(shop.lines(key_of(stock, "again"), "note")) == 6


def test_a_countdown_is_kept(shop: Shop, stock: Celery) -> None:
    """It waits on SQS, longer than a lease; and an expired task is not run."""
    key = key_of(stock, "countdown")
    signature(stock, "note", key).apply_async(expires=-5, MessageGroupId="expired")
    signature(stock, "note", key, "late").apply_async(countdown=6, MessageGroupId="late")
    (line,) = shop.wait_line(key, "note")
    assert line["args"] == ["late"]
    shop.wait_empty()
    assert len(shop.lines(key)) == 1


def test_links_and_errbacks_are_called(shop: Shop, stock: Celery) -> None:
    """Once, as for a task of a converted client."""
    key = key_of(stock, "linked")
    signature(stock, "note", key).apply_async(link=signature(stock, "note", "next"))
    assert [line["args"] for line in shop.wait_line(key, "note", 2)] == [[], ["next"]]
    task = signature(stock, "do", {"key": key, "do": "permanent"})
    task_id = task.apply_async(link_error=[signature(stock, "failed", key)]).id
    (errback,) = shop.wait_line(key, "errback")
    assert errback["task_id"] == task_id


def test_a_chain_runs_in_order(shop: Shop) -> None:
    """Of protocol 2, which has chains; the worker publishes the next."""
    stock = stock_app(shop.queue.url)
    chain(signature(stock, "note", "chain-a"), signature(stock, "note", "chain-b")).apply_async()
    assert [line["args"] for line in shop.wait_line("chain-a", "note", 2)] == [[], ["chain-b"]]


def test_a_dead_letter_is_redriven(shop: Shop, stock: Celery) -> None:
    """It is listed with its task and its data, and runs once the reason is gone."""
    key = key_of(stock, "redriven")
    task_id = signature(stock, "do", {"key": key, "do": "need-key"}).apply_async(MessageGroupId=key).id

    wait_letter(shop, task_id)
    shown = dlq(shop, "show", task_id)
    assert "tests.integration.workshop.do" in shown
    assert '"need-key"' in shown
    assert key in shown
    shop.let_go(key)
    dlq(shop, "redrive", task_id, "--yes", "--out-of-order")
    shop.wait_line(key, "end")
    shop.wait_empty()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"serializer": "pickle"}, "content-type is 'application/x-python-serialize'"),
        ({"compression": "gzip"}, "compressed (application/x-gzip)"),
    ],
    ids=["pickle", "gzip"],
)
def test_what_cannot_be_read_safely_is_a_dead_letter(
    shop: Shop, stock: Celery, options: dict[str, Any], why: str
) -> None:
    """With its reason, at once; nothing is unpickled, and the worker goes on."""
    key = f"{key_of(stock, 'refused')}-{'-'.join(options.values())}"
    before = len(letters(shop, why))
    signature(stock, "note", key).apply_async(**options)
    shop.wait(lambda: len(letters(shop, why)) == before + 1, f"a dead letter: {why}")
    assert not shop.lines(key)
