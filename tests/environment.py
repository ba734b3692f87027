"""The environment of the process, which no test may change for those after it."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def unchanged_environment() -> Iterator[None]:
    """A test leaves the environment of its process as it was."""
    before = _variables()
    yield
    assert _variables() == before


def _variables() -> dict[str, str]:
    # Pytest names the test that runs.
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
