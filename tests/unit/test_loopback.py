"""Which hosts are this machine: one answer for checks, guards and start refusals."""

import pytest

from pipeline.loopback import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost", "::ffff:127.0.0.1"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [None, "", "192.0.2.1", "::", "10.0.0.1", "::ffff:10.0.0.1", "localhost.example.com", "127.0.0.1.nip.io"],
)
def test_others(host: str | None) -> None:
    assert not is_loopback(host)
