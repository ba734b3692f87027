"""What each module of the suite is expected to give, and why a test fails: ``expected.toml``."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.celerysuite.run import Outcome


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The expectations of one module."""

    #: how many tests pass
    passed: int
    #: the reason by the name of each test that fails
    failed: Mapping[str, str]


def read() -> dict[str, Expected]:
    """Return the expectations by module, in the order of the file."""
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    return {
        module: Expected(passed=table["passed"], failed=table.get("failed", {}))
        for module, table in tables.items()
    }


def differences(expected: Expected, outcome: Outcome) -> list[str]:
    """Return a line for each difference, an unexpected pass too; none where all is as expected.

    A test that is skipped, as some are by the suite itself, shows in the number of those that pass.
    """
    lines = [f"fails: {name}: {why}" for name, why in outcome.failed.items() if name not in expected.failed]
    ran = outcome.failed.keys() | outcome.skipped.keys()
    lines += [f"passes, or is gone: {name}" for name in expected.failed if name not in ran]
    if outcome.passed != expected.passed:
        lines.append(f"{outcome.passed} tests pass, expected {expected.passed}")
    return lines
