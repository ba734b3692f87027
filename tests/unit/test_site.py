"""The site of ``pipeline web``: what its metrics tell of the workers that it sees."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.telemetry import metrics
from pipeline.web.site import Site
from tests import builders


class Stats:
    """Statistics of workers, a number of which are online."""

    online = 7

    def start(self) -> None:
        """Read nothing."""

    def snapshot(self) -> Any:
        return SimpleNamespace(online=self.online)


@pytest.mark.parametrize(("mechanism", "shown"), [("AWS_MSK_IAM", 28), ("SCRAM-SHA-512", 0)])
def test_connections_are_shown_where_brokers_limit_them(
    mechanism: str, shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of each worker that is online, with MSK's IAM only."""
    monkeypatch.setattr(metrics, "_at_scrape", {})
    metrics.BROKER_CONNECTIONS.set(0)
    settings = builders.settings().model_copy(update={"kafka_sasl_mechanism": mechanism})
    parts = cast(Any, dict.fromkeys(("registry", "access", "live", "actions")))
    Site(settings=settings, stats=cast(Any, Stats()), **parts).start()
    assert f"pipeline_broker_connections {shown}.0\n" in metrics.exposition().decode()
    metrics.BROKER_CONNECTIONS.set(0)
