"""Actions of the jobs page on many dead letters: how long they go on, and what they count."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from config.settings import load_settings
from pipeline.deadletters import Filter
from pipeline.deadletters.walk import Walk
from pipeline.sqs import ReceivedMessage
from pipeline.web.actions import TIME, Actions
from pipeline.web.letters import Letters
from tests.unit.test_deadletters import ENVIRONMENT, Queue, SlowRedriver, walk_of

LETTERS = 10_000


class SlowQueue(Queue):
    """Takes half a second to hand out ten: 500 seconds for all."""

    def receive(self, most: int = 10, **options: Any) -> list[ReceivedMessage]:
        """Those, later."""
        self.now += 0.5
        return super().receive(most, **options)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> SlowQueue:
    """The dead-letter queue; its clock is that of who goes through it."""
    queue = SlowQueue(messages={f"m{n}": f"dead-{n}" for n in range(LETTERS)})
    monkeypatch.setattr("pipeline.deadletters.look.sqs_client", lambda _: None)
    monkeypatch.setattr("pipeline.deadletters.look.SqsQueue", lambda *_: queue)
    monkeypatch.setattr("pipeline.deadletters.look.Walk", walk_of)
    for module in ("pipeline.web.actions", "pipeline.deadletters.campaign"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: queue.now))
    return queue


@pytest.fixture
def actions(monkeypatch: pytest.MonkeyPatch, queue: SlowQueue) -> Iterator[Actions]:
    """Those of a page; they may take so long as a request may, and a moment to end."""

    def redriver(*services: Any, out_of_order: bool) -> SlowRedriver:
        assert not out_of_order
        (walk,) = [each for each in services if isinstance(each, Walk)]
        return SlowRedriver(walk, queue)

    monkeypatch.setattr("pipeline.web.actions.Redriver", redriver)
    monkeypatch.setattr(Actions, "_producer", lambda _: None)
    settings = load_settings(ENVIRONMENT)
    began = queue.now
    yield Actions(settings, None, None, Letters(settings))  # type: ignore[arg-type]
    assert queue.now - began < TIME + 3


def test_letters_that_are_named_end_the_walk(actions: Actions, queue: SlowQueue) -> None:
    """Five of a page are redriven without a look at the thousands behind them."""
    ids = frozenset({"m7", "m8", "m9", "m10", "m11"})
    tally = actions.redrive(Filter(ids=ids))
    assert (tally.counts, tally.finished) == ({"redriven": 5}, True)
    assert queue.messages.keys() == {f"m{n}" for n in range(LETTERS)} - ids


def test_one_name_may_be_that_of_several_letters(actions: Actions) -> None:
    """A task's id does not end the walk, the time does: another letter of the task may be behind."""
    tally = actions.redrive(Filter(ids=frozenset({"m7", "a task's"}), place="sqs"))
    assert (tally.counts, tally.finished) == ({"redriven": 1}, False)


def test_letters_that_are_not_met_end_with_the_time(actions: Actions, queue: SlowQueue) -> None:
    """No answer comes for hundreds of seconds, and the request ends all the same."""
    tally = actions.redrive(Filter(error="Nothing", place="sqs"))
    assert (tally.counts, tally.finished) == ({}, False)
    assert len(queue.messages) == LETTERS


def test_a_redrive_that_is_broken_off_counts_all_it_did(actions: Actions, queue: SlowQueue) -> None:
    """It redrives what it met in half its time, and what was begun together is counted to the end."""
    tally = actions.redrive(Filter(place="sqs"))
    assert not tally.finished
    assert tally.counts == {"redriven": LETTERS - len(queue.messages)}
    assert tally.counts["redriven"] >= 40


def test_a_purge_that_is_broken_off_counts_all_it_did(actions: Actions, queue: SlowQueue) -> None:
    """What is removed is gone: the count must be true."""
    tally = actions.purge(Filter(place="sqs"), "dlq.fifo")
    assert not tally.finished
    assert tally.counts == {"purged": LETTERS - len(queue.messages)}
