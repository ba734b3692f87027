"""Flower asks for a login, or serves this machine only; otherwise it does not start."""

from collections.abc import Iterator

import click
import pytest
from flower.options import options

from pipeline.worker.celerychecks import StartRefused, refuse_open_flower


@pytest.fixture
def flower() -> Iterator[None]:
    """A process that runs the command ``flower``."""
    with click.Context(click.Command("flower"), info_name="flower"):
        before = {name: getattr(options, name) for name in ("basic_auth", "auth", "address", "unix_socket")}
        yield
        for name, value in before.items():
            setattr(options, name, value)


@pytest.mark.parametrize("passwords", [[], [""]])
@pytest.mark.parametrize("address", ["", "0.0.0.0", "10.0.0.1"])  # noqa: S104 - what is refused
def test_an_open_flower_is_refused(flower: None, passwords: list[str], address: str) -> None:
    """Without a password, or with an empty one, on any address that others reach."""
    options.basic_auth, options.address = passwords, address
    with pytest.raises(StartRefused, match="FLOWER_BASIC_AUTH=name:password"):
        refuse_open_flower()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("basic_auth", ["ada:secret"]),
        ("auth", r".*@example\.org"),
        ("address", "127.0.0.1"),
        ("address", "localhost"),
        ("unix_socket", "/run/flower.sock"),
    ],
)
def test_a_closed_flower_starts(flower: None, name: str, value: object) -> None:
    """A password, OAuth, or a place that only this machine reaches."""
    setattr(options, name, value)
    refuse_open_flower()


def test_other_commands_are_not_asked() -> None:
    """A worker needs no password."""
    with click.Context(click.Command("worker"), info_name="worker"):
        refuse_open_flower()
    refuse_open_flower()
