"""``python -m tests.faults [--long] [pytest options]``: run the faults, with few events or thousands."""

import sys
from pathlib import Path

import pytest

#: The name under which fixtures find the plugin of the long scale.
LONG = "faults-long"


class Long:
    """A plugin that selects the long scale by being registered."""

    def pytest_configure(self, config: pytest.Config) -> None:
        """Register under a name."""
        config.pluginmanager.register(object(), LONG)


def main(arguments: list[str]) -> int:
    """Run the faults; return pytest's exit code."""
    long = "--long" in arguments
    given = [each for each in arguments if each != "--long"]
    # The short ones mostly wait, so two files at a time. The long scale wants the machine for itself, and its
    # plugin is in this process only.
    at_a_time = ["-n", "0"] if long else ["-n", "2", "--dist", "loadfile"]
    options = [str(Path(__file__).parent), *at_a_time, "-v", "--durations=0", "--durations-min=1"]
    return int(pytest.main([*options, *given], plugins=[Long()] if long else []))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
