"""The alert rules, checked by Prometheus itself: which fire, and which do not."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.telemetry import metrics

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def promtool() -> str:
    """Prometheus's own checker, of Debian's package prometheus; CI has it."""
    found = shutil.which("promtool")
    if found is None:
        reason = "the rules are read by promtool, of Debian's package prometheus: not on PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def run(*command: str, stdin: bytes | None = None) -> None:
    """It must succeed."""
    result = subprocess.run(command, input=stdin, capture_output=True, cwd=DEPLOY, timeout=60, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr).decode()


def test_prometheus_takes_the_rules(promtool: str) -> None:
    """Their syntax, their expressions, their templates."""
    run(promtool, "check", "rules", "--lint-fatal", "alerts.yml")


def test_each_rule_fires_for_what_it_is_for_and_for_nothing_else(promtool: str) -> None:
    """deploy/alerts.test.yml has series as they come, and what fires then."""
    run(promtool, "test", "rules", "alerts.test.yml")


def test_prometheus_takes_the_metrics(promtool: str) -> None:
    """The answer of /metrics has Prometheus's format and recommended names."""
    run(promtool, "check", "metrics", stdin=metrics.exposition())
