"""``python -m tests.faults [--long] [what pytest takes]``: the faults, with a few events or thousands."""

import sys
from pathlib import Path

import pytest

#: As what the fixtures find the plugin that makes them choose the long scale.
LONG = "faults-long"


class Long:
    """Registers itself, and does no more."""

    def pytest_configure(self, config: pytest.Config) -> None:
        """Be found by name."""
        config.pluginmanager.register(object(), LONG)


def main(arguments: list[str]) -> int:
    """Run them; pytest's exit code."""
    long = "--long" in arguments
    given = [each for each in arguments if each != "--long"]
    # The short ones mostly wait, so two files at a time. The long scale wants the machine for itself, and its
    # plugin is in this process only.
    at_a_time = ["-n", "0"] if long else ["-n", "2", "--dist", "loadfile"]
    options = [str(Path(__file__).parent), *at_a_time, "-v", "--durations=0", "--durations-min=1"]
    return int(pytest.main([*options, *given], plugins=[Long()] if long else []))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
