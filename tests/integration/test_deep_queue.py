"""One entity's backlog holds up its own stage only, in a small run of the benchmark that measures it."""

import pytest

from benchmarks import entity
from pipeline.services.environment import Services


def test_a_deep_queue_of_one_entity_leaves_other_stages_alone(
    embedded_services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every event of the other stage becomes a task and runs; the entity's events wait on Kafka."""
    for name, value in embedded_services.environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    without, beside = entity.run(embedded_services, tasks=60, rate=50, events=100, limit=50, warm_up=50)
    assert (without["unread"], beside["unread"]) == (0, entity.BEHIND)
    assert beside["events"] == without["events"] == 100
