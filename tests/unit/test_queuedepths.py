"""Only topics that feed a queue that is too deep are paused: stages on other queues go on."""

from typing import Any

import pytest

from pipeline.bridge import queuedepths
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.queuedepths import MAX_DEPTH, SHALLOW_AT, QueueDepths
from pipeline.errors import ServiceUnavailableError
from pipeline.sqs import QueueDepth
from pipeline.telemetry import metrics
from pipeline.wire.plans import Route
from tests.builders import settings
from tests.loglines import log_lines
from tests.processes import wait_until

ROUTES = (
    Route(name="read", consumes="letters", emits="read"),
    Route(name="file", consumes="read"),
    Route(name="weigh", consumes="parcels", queue="slow.fifo", ordered=True),
    Route(name="count", consumes="both"),
    Route(name="pack", consumes="both", queue="slow.fifo"),
)


class FakeQueue:
    """As deep as told."""

    def __init__(self) -> None:
        self.messages = 0
        self.error: Exception | None = None

    def depth(self) -> QueueDepth:
        if self.error:
            raise self.error
        return QueueDepth(
            available=self.messages - self.messages // 3, in_flight=self.messages // 3, delayed=0
        )


class World:
    """The depths of two queues."""

    def __init__(self) -> None:
        self.tasks, self.slow = FakeQueue(), FakeQueue()
        queues: Any = {"tasks.fifo": self.tasks, "slow.fifo": self.slow}
        self.plans = KnownPlans(ROUTES)
        own = settings(sqs_task_queue_url="http://sqs/1/tasks.fifo", topic_prefix="post-")
        self.depths = QueueDepths(own, self.plans, queues.__getitem__)

    def deep(self) -> set[str]:
        self.depths.measure()
        return {topic.removeprefix("post-") for topic in self.depths.deep_topics}


@pytest.fixture
def world() -> World:
    return World()


def test_only_topics_that_feed_the_deep_queue_are_paused(world: World) -> None:
    """Also one that feeds others, too: its offsets are committed when all tasks of an event are sent."""
    assert world.deep() == set()
    world.slow.messages = MAX_DEPTH
    assert world.deep() == {"parcels", "both"}
    world.slow.messages, world.tasks.messages = 0, MAX_DEPTH
    assert world.deep() == {"letters", "read", "both"}
    world.slow.messages = MAX_DEPTH
    assert world.deep() == {"letters", "read", "parcels", "both"}


def test_a_topic_goes_on_when_its_queue_is_well_below_the_limit(world: World) -> None:
    """It does not flutter."""
    world.slow.messages = MAX_DEPTH
    assert world.deep()
    world.slow.messages = int(MAX_DEPTH * SHALLOW_AT) + 1
    assert world.deep()
    world.slow.messages -= 1
    assert world.deep() == set()
    world.slow.messages = MAX_DEPTH - 1
    assert world.deep() == set()


def test_a_queue_that_cannot_be_asked_stays_as_it_was_and_hides_no_other(world: World) -> None:
    """The next look at it may answer."""
    world.slow.messages = MAX_DEPTH
    assert world.deep() == {"parcels", "both"}
    world.slow.error = ServiceUnavailableError("away")
    world.tasks.messages = MAX_DEPTH
    assert world.deep() == {"letters", "read", "parcels", "both"}
    world.slow.error, world.slow.messages, world.tasks.messages = None, 0, 0
    assert world.deep() == set()


def test_the_queues_of_other_deployments_count(world: World) -> None:
    """Their open jobs still make tasks on them, and a stage that moved feeds its new queue."""
    moved = Route(name="file", consumes="read", queue="slow.fifo")
    world.plans.follow((*ROUTES, moved), [[Route(name="old", consumes="gone", queue="slow.fifo")]])
    world.slow.messages = MAX_DEPTH
    assert world.deep() == {"read", "parcels", "both", "gone"}


def test_the_metric_says_which_topics_are_paused(world: World) -> None:
    """From 0 on, for each topic."""
    world.slow.messages = MAX_DEPTH
    world.deep()
    shown = metrics.exposition().decode()
    assert 'pipeline_topic_paused{topic="post-parcels"} 1.0' in shown
    assert 'pipeline_topic_paused{topic="post-letters"} 0.0' in shown


def test_the_log_says_once_which_queue_is_deep_and_what_it_stops(world: World) -> None:
    """An operator reads which stages wait."""
    world.slow.messages = MAX_DEPTH
    with log_lines(queuedepths) as lines:
        world.deep()
        world.deep()
    assert [(line["event"], line["queue"], line["topics"]) for line in lines] == [
        ("bridge.queue_deep", "slow.fifo", ["post-both", "post-parcels"])
    ]


def test_an_unexpected_error_is_logged_and_the_next_look_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a queue that was deep would pause its topics for as long as the bridge lives."""
    monkeypatch.setattr(queuedepths, "DEPTH_EVERY", 0.01)
    world.slow.messages = MAX_DEPTH
    assert world.deep()
    world.slow.error = KeyError("nobody expected it")
    with log_lines(queuedepths) as lines:
        world.depths.start()
        try:
            wait_until(lambda: lines, "it is logged")
            world.slow.messages, world.slow.error = 0, None
            wait_until(lambda: not world.depths.deep_topics, "the queue is found empty")
        finally:
            world.depths.close()
    assert lines[0]["event"] == "bridge.depth_failed"
