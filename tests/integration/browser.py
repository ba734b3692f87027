"""A headless Chromium: a page as a person's browser has it after its scripts ran."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,900",
    # Runs the page's scripts and timers for so many of its own milliseconds.
    "--virtual-time-budget=8000",
)


def find_chromium() -> str:
    """Chromium's path; skips the test without one, fails it where CI=true promises one."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        reason = "Flower's pages need Debian's package chromium, not found on PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def read_page(url: str, folder: Path) -> str:
    """The page's document after its scripts ran."""
    profile = folder / f"chromium-{os.urandom(4).hex()}"
    done = subprocess.run(
        [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout
