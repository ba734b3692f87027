"""When a bridge is to be restarted: its loop stands still, or its Kafka client answers no commit."""

import pytest

from pipeline.bridge.pulse import STUCK_AFTER, Pulse


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pulse(clock: Clock) -> Pulse:
    return Pulse(clock)


def test_before_it_begins_a_loop_is_not_stuck(pulse: Pulse, clock: Clock) -> None:
    """Checks at the start may wait for services as long as they need."""
    clock.now += 10 * STUCK_AFTER
    assert pulse.stuck() is None


def test_a_loop_that_does_not_turn_is_stuck(pulse: Pulse, clock: Clock) -> None:
    """Until it turns again."""
    pulse.beat(0.0)
    clock.now += STUCK_AFTER
    assert pulse.stuck() is None
    clock.now += 1
    assert pulse.stuck() == "the bridge's loop has not turned for 181 s"
    pulse.beat(0.0)
    assert pulse.stuck() is None


def test_a_commit_without_an_answer_is_stuck(pulse: Pulse) -> None:
    """Although the loop turns: without commits it takes nothing more."""
    pulse.beat(STUCK_AFTER)
    assert pulse.stuck() is None
    pulse.beat(STUCK_AFTER + 1)
    assert pulse.stuck() == "the Kafka client has not answered a commit for 181 s"
    pulse.beat(0.0)
    assert pulse.stuck() is None


def test_a_loop_that_ended_is_not_stuck(pulse: Pulse, clock: Clock) -> None:
    """The process waits for its last calls then."""
    pulse.beat(0.0)
    pulse.stop()
    clock.now += 2 * STUCK_AFTER
    assert pulse.stuck() is None
