"""Every benchmark that needs no servers runs once, small: it comes to its end, with its figures."""

import json

import pytest
import structlog
from click.testing import CliRunner

from benchmarks.__main__ import main
from tests.smallbenchmarks import ELSEWHERE, WITH_SERVERS, WITHOUT_SERVERS


@pytest.mark.parametrize("name", WITHOUT_SERVERS)
def test_a_benchmark_ends_with_its_figures(name: str) -> None:
    """Each row is a line of JSON that names the benchmark."""
    words = [name, *WITHOUT_SERVERS[name].split(), "--json"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["benchmark"] for row in rows} == {name}


def test_a_new_benchmark_is_run_somewhere() -> None:
    """Add its smallest arguments to ``tests/smallbenchmarks.py``: one that nobody runs may never end."""
    assert main.commands.keys() == WITH_SERVERS.keys() | WITHOUT_SERVERS.keys() | ELSEWHERE.keys()


def test_a_log_line_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on standard error, as progress is."""
    # As in a new process: earlier tests in this one may have left another configuration.
    structlog.reset_defaults()

    def log_and_measure(*_: object) -> list[dict[str, str]]:
        structlog.get_logger().warning("kafka.not_ready")
        return [{"benchmark": "wire"}]

    monkeypatch.setattr("benchmarks.wire.run", log_and_measure)
    done = CliRunner().invoke(main, ["wire", "--json"], catch_exceptions=False)
    assert done.stdout == '{"benchmark": "wire"}\n'
    assert "kafka.not_ready" in done.stderr
