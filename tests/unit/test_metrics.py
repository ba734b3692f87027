"""Metrics: named in one place, documented, and shown on the dashboard."""

import json
import re
from pathlib import Path

from pipeline.telemetry import metrics

ROOT = Path(__file__).parents[2]


def names() -> set[str]:
    """Every metric's name as Prometheus shows it."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in metrics.REGISTRY.collect()
    }


def test_every_metric_is_in_the_table() -> None:
    """docs/operations.md names each, and none that is not there."""
    text = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^\| `(pipeline_\w+)`", text, re.MULTILINE)) == names()


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    """Each panel's expression is made of names that are exposed."""
    board = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    asked = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"pipeline_\w+", target["expr"])
    }
    assert asked == names()


def test_gauges_of_others_counts_are_set_when_asked() -> None:
    """What somebody counts anyway is read at the scrape, not on the way of a task."""
    metrics.at_scrape("test", lambda: metrics.LANES.set(7))
    assert b"pipeline_lanes 7.0" in metrics.exposition()
