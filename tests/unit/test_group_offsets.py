"""The offsets of a group, read while no broker answers."""

from typing import Any

import pytest

from pipeline.errors import ServiceUnavailableError
from pipeline.kafka import GroupOffsets, security
from tests import builders


def test_after_a_request_that_failed_comes_a_new_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that found no broker may find none when they are back."""
    made: list[Any] = []

    def make_client(*arguments: Any) -> Any:
        made.append(make(*arguments))
        return made[-1]

    make = security.make_client
    monkeypatch.setattr("pipeline.kafka.offsets.make_client", make_client)
    reader = GroupOffsets(builders.settings(kafka_bootstrap_servers="127.0.0.1:1"), "group", 0.01)
    for number in (1, 2):
        with pytest.raises(ServiceUnavailableError):
            reader.partitions()
        assert len(made) == number
        with pytest.raises(RuntimeError, match="closed"):
            made[-1].list_topics(timeout=0.01)
