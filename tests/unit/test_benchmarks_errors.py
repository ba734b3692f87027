"""A benchmark whose server does not answer ends with one line, whichever client noticed."""

from subprocess import TimeoutExpired

import pytest
from botocore.exceptions import ReadTimeoutError
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.measure import BenchmarkError


@pytest.mark.parametrize(
    "error",
    [
        ReadTimeoutError(endpoint_url="http://127.0.0.1:4566"),
        TimeoutError("timed out"),
        ConnectionResetError("reset by peer"),
        TimeoutExpired("java", 5),
        BenchmarkError("3 of 5 tasks done, then none"),
    ],
)
def test_a_server_that_does_not_answer_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 and the error's own message, without a traceback."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("benchmarks.__main__.running_services", fail)
    result = CliRunner().invoke(main, ["bridge", "--events", "100", "--rtt", "0"])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert str(error) in line
