"""Celery's own integration suite, as its command runs it; here the quickest modules, the others by hand."""

import subprocess
import sys


def test_celerys_own_tests_give_what_is_expected() -> None:
    """A worker, asked with ``inspect``, and apps of Django: what passes goes on to pass."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.celerysuite", "--services", "embedded"),
            *("test_inspect", "test_worker"),
        ],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
