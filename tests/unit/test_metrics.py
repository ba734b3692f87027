"""Metrics: named in one place, documented, and shown on the dashboard."""

import asyncio
import json
import re
from pathlib import Path

import yaml
from fastapi.routing import APIRoute

from pipeline.jobs import WriteCapacity
from pipeline.observe.endpoints import metrics_router
from pipeline.observe.guard import Guard
from pipeline.observe.probe import Probe, Probes
from pipeline.observe.reports import DynamodbReport, KafkaReport, SqsReport
from pipeline.settings import load_settings
from pipeline.telemetry import metrics

ROOT = Path(__file__).parents[2]

#: Required settings; none is used here.
NEEDED = ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_CONSUMER_GROUP", "SQS_TASK_QUEUE_URL")


def names() -> set[str]:
    """Every metric's name as Prometheus shows it."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in metrics.REGISTRY.collect()
    }


def test_every_metric_is_in_the_table() -> None:
    """docs/reference/telemetry.md names each, and none that is not there."""
    text = (ROOT / "docs" / "reference" / "telemetry.md").read_text()
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


def test_every_alert_asks_for_metrics_that_exist_and_has_its_part_of_the_runbook() -> None:
    """Each rule has an expression of exposed names, how urgent it is, and a heading to go to."""
    rules = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"][0]["rules"]
    headings = re.findall(r"^## (.*)", (ROOT / "docs" / "guides" / "runbook.md").read_text(), re.MULTILINE)
    anchors = set(map(_anchor, headings))
    for rule in rules:
        assert set(re.findall(r"pipeline_\w+", rule["expr"])) <= names(), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/guides/runbook.md"
        assert anchor in anchors, rule["alert"]


def test_every_alert_is_found_by_its_name_in_its_part_of_the_runbook() -> None:
    """A person who is woken searches for it."""
    rules = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"][0]["rules"]
    runbook = (ROOT / "docs" / "guides" / "runbook.md").read_text()
    sections = {_anchor(part.partition("\n")[0]): part for part in runbook.split("\n## ")}
    for rule in rules:
        anchor = rule["annotations"]["runbook"].partition("#")[2]
        assert f"`{rule['alert']}`" in sections[anchor], rule["alert"]


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def test_gauges_of_others_counts_are_set_when_asked() -> None:
    """Existing counts are read at the scrape, not while a task is handled."""
    metrics.at_scrape("test", lambda: metrics.LANES.set(7))
    assert b"pipeline_lanes 7.0" in metrics.exposition()


def test_a_service_that_is_away_has_no_figures() -> None:
    """Unknown figures are left out: yesterday's lag is not today's."""
    capacity = WriteCapacity(provisioned=False, table=8_000, index=4_000, rising=False)
    tables = [DynamodbReport(status="healthy", write_capacity=capacity), DynamodbReport.unhealthy("away")]
    reports = [KafkaReport(status="healthy", lag_by_topic={"orders": 7}), KafkaReport.unhealthy("away")]
    settings = load_settings(dict.fromkeys(NEEDED, "x.fifo") | {"SERVICE_NAME": "x", "SQS_DLQ_URL": "y.fifo"})
    probes = Probes(
        kafka=Probe("Kafka", KafkaReport, lambda: reports.pop(0), lifetime=0),
        sqs=Probe("SQS", SqsReport, SqsReport.off),
        dynamodb=Probe("DynamoDB", DynamodbReport, lambda: tables.pop(0), lifetime=0),
    )
    route = metrics_router(probes, Guard(settings)).routes[0]
    assert isinstance(route, APIRoute)
    first, second = (asyncio.run(route.endpoint()).body for _ in range(2))
    assert b'pipeline_consumer_lag{topic="orders"} 7.0' in first
    assert b'pipeline_table_write_capacity{resource="table"} 8000.0' in first
    assert b'pipeline_table_write_capacity{resource="jobs-by-time"} 4000.0' in first
    assert b"pipeline_consumer_lag{" not in second
    assert b"pipeline_table_write_capacity{" not in second
    assert b'pipeline_dependency{dependency="kafka"} 0.0' in second
