"""Every benchmark that needs servers runs once, small: it comes to its end, with its figures."""

import contextlib
import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from benchmarks import bridge, flow, latency, measure, outage, page, soak, split
from benchmarks.__main__ import main
from pipeline.services.environment import Services
from tests.smallbenchmarks import WITH_SERVERS


@pytest.fixture(autouse=True)
def patient(embedded_services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the session's servers, without what a figure needs and with more time than a busy machine takes."""

    @contextlib.contextmanager
    def shared() -> Iterator[Services]:
        yield embedded_services

    monkeypatch.setattr("benchmarks.ground.embedded_services", shared)
    for module in (flow, measure, soak, split):
        monkeypatch.setattr(module, "STUCK_AFTER", 600.0)
    for module in (latency, outage):
        monkeypatch.setattr(module, "TIMEOUT", 600.0)
    monkeypatch.setattr(flow, "WARM_UP", 1)
    for module in (bridge, latency):
        monkeypatch.setattr(module, "WARM_UP", 1)
    monkeypatch.setattr(page, "PAGES", ("/jobs",))


@pytest.mark.parametrize("name", WITH_SERVERS)
def test_a_benchmark_ends_with_its_figures(name: str) -> None:
    """Each row is a line of JSON that names the benchmark."""
    words = [name, *WITH_SERVERS[name].split(), "--services", "embedded", "--json"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    # That of whole jobs has the name of their shape, too.
    assert rows[0]["benchmark"].split(",")[0] == name
