"""The figures of a benchmark: rates from samples, medians of rounds, and the names in JSON."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.rates import Sample, middle
from benchmarks.rows import Row, medians, with_speedup
from pipeline.errors import ServiceUnavailableError


def _sample(at: float, done: int) -> Sample:
    return Sample(at=at, done=done, cpu=at / 2, requests=2 * done)


def _row(peer: str, per_second: float, requests: float | None = 1.0) -> Row:
    return Row(
        benchmark="worker",
        peer=peer,
        unit="task",
        rtt_ms=10.0,
        services="ministack",
        count=1000,
        per_second=per_second,
        requests=requests,
        cpu_ms=1.0,
        peak_memory_mb=100.0,
    )


def test_only_the_middle_counts() -> None:
    """A slow start and a slow end do not change the rate between a tenth and nine tenths."""
    samples = [_sample(0, 0), _sample(50, 100), _sample(60, 900), _sample(200, 1000)]
    measured = middle(samples, 1000)
    assert measured.per_second == pytest.approx(80)
    assert measured.requests_per_item == pytest.approx(2)
    assert measured.cpu_ms_per_item == pytest.approx(1000 * 5 / 800)


def test_between_samples_progress_is_even() -> None:
    """The moments at which a share was done are found between two samples."""
    assert middle([_sample(0, 0), _sample(10, 1000)], 1000).per_second == pytest.approx(100)


def test_a_queue_that_grows_again_is_seen_through() -> None:
    """Messages that come back lower the count for a while; the first time that it is reached counts."""
    samples = [_sample(0, 0), _sample(1, 120), _sample(2, 90), _sample(3, 200), _sample(11, 1000)]
    assert middle(samples, 1000).per_second == pytest.approx(800 / (10 - 100 / 120))


def test_a_run_that_ended_early_has_no_rate() -> None:
    """No figure is made of a run that did not get to nine tenths."""
    with pytest.raises(ValueError, match="900"):
        middle([_sample(0, 0), _sample(1, 500)], 1000)


def test_a_row_says_how_many_times_as_fast_ours_was() -> None:
    """Each row of a round has ours' rate over its own; without ours there is none."""
    rows = with_speedup([_row("ours", 1000), _row("stock", 80)])
    assert [row.ours_is for row in rows] == [1.0, 12.5]
    assert [row.ours_is for row in with_speedup([_row("stock", 80)])] == [None]


def test_a_row_is_the_median_of_its_rounds() -> None:
    """Each figure by itself; one that is not counted stays so."""
    rounds = [with_speedup([_row("ours", rate), _row("redis", 100, None)]) for rate in (900, 1200, 1000)]
    ours, redis = medians(rounds)
    assert (ours.per_second, ours.runs) == (1000, 3)
    assert (redis.ours_is, redis.requests) == (10, None)


def test_the_unit_is_part_of_the_names() -> None:
    """A line of JSON can be read without knowing which benchmark it is from."""
    assert list(_row("ours", 1000).named()) == [
        "benchmark",
        "peer",
        "rtt_ms",
        "services",
        "tasks",
        "runs",
        "tasks_per_second",
        "requests_per_task",
        "cpu_ms_per_task",
        "peak_memory_mb",
        "ours_is",
    ]


def test_a_server_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark ends with the reason and exit code 1, not with a traceback."""

    @contextmanager
    def services(_: str) -> Iterator[None]:
        raise ServiceUnavailableError("SQS does not answer")
        yield

    monkeypatch.setattr("benchmarks.__main__.running_services", services)
    result = CliRunner().invoke(main, ["bridge"])
    assert (result.exit_code, result.stderr) == (1, "Error: SQS does not answer\n")
