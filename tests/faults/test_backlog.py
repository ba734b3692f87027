"""Faults with a backlog: one group has far more tasks than all others together."""

from tests.faults.world import World


def test_a_huge_backlog_of_one_group(world: World) -> None:
    """Other groups do not wait for it, and it keeps its order."""
    backlog = [world.load.item("arrivals", entity="huge", seconds=0.01) for _ in range(world.scale.backlog)]
    world.load.produce(backlog)
    others = world.load.send()
    world.verify(runs=1)
    ends = {line["key"]: line["at"] for line in world.observer.effects() if line["what"] == "end"}
    arrivals = [each for each in others if each.topic == "arrivals"]
    assert max(ends[each.key] for each in arrivals) < max(ends[each.key] for each in backlog)
