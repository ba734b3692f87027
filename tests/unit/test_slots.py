"""Slots of two kinds: what is received for a queue whose messages run in the pool, on loops, or both."""

import pytest

from pipeline.transport.slots import LoopSlots, Mix, Slots


@pytest.mark.parametrize(("kind", "heads"), [(False, 2), (True, 90)])
def test_a_queue_of_one_kind_is_asked_for_its_own_slots(kind: bool, heads: int) -> None:
    """Whatever the other kind has room for."""
    assert Mix(kind).heads_for(2, 90, none_waits=True) == heads


@pytest.mark.parametrize("kind", [False, True])
def test_a_queue_of_one_kind_is_not_asked_for_slots_that_are_full(kind: bool) -> None:
    """Its messages would wait here, while other workers are idle."""
    assert Mix(kind).heads_for(0 if not kind else 5, 0 if kind else 5, none_waits=True) < 1


def test_a_queue_with_both_is_asked_for_what_fits_by_its_share() -> None:
    """After many messages for loops, the free slots of the loops count; at first, both do."""
    mix = Mix(None)
    assert mix.heads_for(2, 90, none_waits=True) == 4
    mix.note([True] * 40)
    assert mix.heads_for(2, 90, none_waits=True) == 91


@pytest.mark.parametrize(("pool", "loops"), [(0, 90), (2, 0)])
def test_a_queue_with_both_is_asked_for_one_until_one_waits(pool: int, loops: int) -> None:
    """It may bring one for the free slots; a second one for the full ones is left to other workers."""
    mix = Mix(None)
    assert mix.heads_for(pool, loops, none_waits=True) == 1
    assert mix.heads_for(pool, loops, none_waits=False) < 1
    assert mix.heads_for(0, 0, none_waits=True) < 1


def test_loops_hold_nothing_ahead_before_runs_end() -> None:
    """Without an end of a run there is no rate: hour-long runs keep no message from other workers."""
    loops, pool = LoopSlots(200), Slots(2)
    assert (loops.wanted(), pool.wanted()) == (200, 2)
    assert loops.most() == 200
