"""The commands that a worker obeys, and their bounds."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.control import Panel
from flower.inspector import Inspector
from hypothesis import given
from hypothesis import strategies as st

from pipeline.celery import make_app
from pipeline.control import mailbox
from pipeline.control.commands import ALWAYS, refusal
from pipeline.settings import load_settings
from tests.unit.test_settings import REQUIRED

CHANGES = (
    "shutdown",
    "pool_grow",
    "pool_shrink",
    "pool_restart",
    "autoscale",
    "time_limit",
    "rate_limit",
    "revoke",
    "revoke_by_stamped_headers",
    "terminate",
    "add_consumer",
    "cancel_consumer",
    "disable_events",
    "election",
    "hello",
    "memdump",
    "memsample",
    "objgraph",
)


def state(processes: int = 2, concurrency: int = 2, max_concurrency: int | None = None) -> Any:
    """The state that Celery gives a command, of a worker with such a pool."""
    worker = SimpleNamespace(concurrency=concurrency, max_concurrency=max_concurrency)
    return SimpleNamespace(
        consumer=SimpleNamespace(pool=SimpleNamespace(num_processes=processes), controller=worker)
    )


def test_every_command_of_celery_is_known() -> None:
    """Each is either one that changes nothing or refused by default: a new one shows here."""
    aliases = {each.alias for each in Panel.meta.values()}
    assert {name for name in Panel.data if name not in aliases} == ALWAYS | set(CHANGES)


def test_flower_reads_without_a_setting() -> None:
    """Commands of its pages are always answered."""
    assert set(Inspector.inspect_methods) <= ALWAYS


@pytest.mark.parametrize("command", CHANGES)
def test_a_command_that_changes_a_worker_needs_the_setting(command: str) -> None:
    """Without it the answer names the setting and the command."""
    why = refusal(command, {}, (), state())
    assert why is not None
    assert "CONTROL_COMMANDS" in why
    assert command in why
    assert refusal(command, {}, (command,), state()) is None


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("pool_grow", {"n": 30}),
        ("pool_grow", {"n": -1}),
        ("pool_grow", {"n": 2.0}),
        ("pool_grow", {"n": True}),
        ("pool_shrink", {"n": 2}),
        ("pool_shrink", {"n": 0}),
        ("autoscale", {"max": 5, "min": 1}),
        ("autoscale", {"max": 2, "min": 9}),
        ("autoscale", {"max": "9"}),
        ("time_limit", {"task_name": "echo", "hard": 0.001}),
        ("time_limit", {"task_name": "echo", "hard": 10, "soft": 0.001}),
        ("time_limit", {"task_name": "echo", "hard": 50_000}),
        ("time_limit", {"task_name": "echo", "hard": float("nan")}),
        ("registered", {"taskinfoitems": ["app", "__dict__"]}),
        ("registered", {"taskinfoitems": "__dict__"}),
    ],
)
def test_a_command_out_of_bounds_is_refused(command: str, arguments: dict[str, Any]) -> None:
    """Also one that the service allows."""
    assert refusal(command, arguments, (command,), state()) is not None


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("pool_grow", {"n": 2}),
        ("pool_grow", {}),
        ("pool_shrink", {"n": 1}),
        ("autoscale", {"max": 4, "min": 1}),
        ("time_limit", {"task_name": "echo", "hard": 60, "soft": 50}),
        ("time_limit", {"task_name": "echo", "hard": None, "soft": None}),
        ("registered", {"taskinfoitems": ["rate_limit"]}),
        ("registered", {}),
    ],
)
def test_a_command_in_bounds_is_obeyed(command: str, arguments: dict[str, Any]) -> None:
    """As Celery's commands and Flower's buttons send it."""
    assert refusal(command, arguments, (command,), state()) is None


def test_many_small_steps_pass_no_bound() -> None:
    """The bound is of the pool, not of a command."""
    assert refusal("pool_grow", {"n": 1}, ("pool_grow",), state(processes=4)) is not None


VALUE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.text())


@given(st.dictionaries(st.sampled_from(["n", "max", "min"]), VALUE))
def test_no_arguments_grow_a_pool_beyond_its_bound(arguments: dict[str, Any]) -> None:
    """Commands that are obeyed keep a pool within twice its size at start, with any arguments."""
    if refusal("pool_grow", arguments, ("pool_grow",), state()) is None:
        assert 3 <= 2 + arguments.get("n", 1) <= 4
    if refusal("autoscale", arguments, ("autoscale",), state()) is None:
        assert {arguments.get("max"), arguments.get("min")} <= {None, 1, 2, 3, 4}


class Message:
    """A command as kombu hands it over."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body, self.delivery_tag, self.headers = json.dumps(body).encode(), "t", {"clock": 1}


def test_a_refused_command_is_not_carried_out() -> None:
    """The mailbox of the app calls no handler for it, and answers why."""
    app = make_app(load_settings(REQUIRED))
    ran: list[str] = []
    node = app.control.mailbox.Node("w", handlers={"shutdown": ran.append, "ping": lambda _: "pong"})
    assert isinstance(node, mailbox.Node)
    ping, shutdown = {"method": "ping"}, {"method": "shutdown"}
    assert node.handle_message(ping, Message(ping)) == "pong"
    answer = node.handle_message(shutdown, Message(shutdown))
    assert "CONTROL_COMMANDS" in answer["error"]
    assert ran == []
