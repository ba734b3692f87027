"""The lock files of the image: they fit pyproject.toml, and nothing else is installed."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-build.lock")
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

#: One locked distribution: its name, its version, where it applies, and the lines of its hashes.
ENTRY = re.compile(
    r"^([\w.-]+)==([\w.!+-]+)(?: ; ([^\\\n]+?))?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M
)


def pinned(lock: str) -> dict[str, str]:
    """The version of each distribution of a lock file."""
    entries = ENTRY.findall((ROOT / lock).read_text())
    return {canonicalize_name(name): version for name, version, *_ in entries}


def misfits(requirements: Iterable[str], lock: str) -> list[str]:
    """The requirements that the lock does not have, or has in another version."""
    versions = pinned(lock)
    needed = [each for each in map(Requirement, requirements) if each.name != PROJECT["name"]]
    return [
        str(each)
        for each in needed
        if (name := canonicalize_name(each.name)) not in versions or versions[name] not in each.specifier
    ]


@pytest.mark.parametrize("lock", LOCKS)
def test_each_line_is_a_version_with_hashes(lock: str) -> None:
    """No range, no address of an index, no file without a hash; comments name who needs it."""
    text = (ROOT / lock).read_text()
    left = [line for line in ENTRY.sub("", text).splitlines() if line.strip() and not re.match(r" *#", line)]
    assert left == []
    assert len(pinned(lock)) == len(ENTRY.findall(text)) > 3
    assert not re.search(r"://|@|--(?!hash)", text)


def test_the_lock_has_what_the_image_needs_in_its_range() -> None:
    """Each dependency, and each of the extras but those of development and of the embedded services."""
    extras = PROJECT["optional-dependencies"]
    held = set(extras) - {"all", "bench", "dev", "embedded"}
    requirements = [*PROJECT["dependencies"], *(each for extra in sorted(held) for each in extras[extra])]
    assert misfits(requirements, "requirements.lock") == []
    [command] = re.findall(r"--extra (\S+)", (ROOT / ".ci" / "lock").read_text())
    assert set(command.split(",")) == held


def test_the_lock_has_what_builds_the_wheel_in_its_range() -> None:
    """The build system's requirements."""
    assert misfits(PYPROJECT["build-system"]["requires"], "requirements-build.lock") == []


def test_a_lock_that_does_not_fit_is_found() -> None:
    """A version outside the range, and a distribution that is not there."""
    wrong = ["celery>=99", "no-such-distribution"]
    assert misfits([*wrong, "boto3"], "requirements.lock") == wrong


def test_the_image_installs_nothing_that_is_not_locked() -> None:
    """Until both locks are installed pip asks for hashes, of wheels only; then it asks no index at all."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    switches: dict[str, str] = {}
    installed: list[tuple[str, dict[str, str]]] = []
    for line in text.splitlines():
        if line.startswith("ENV "):
            switches |= dict(re.findall(r"(PIP_\w+)=(\S+)", line))
        installed += [(each, dict(switches)) for each in re.findall(r"pip (?:install|wheel) [^&]*", line)]
    assert len(installed) == 4
    for command, given in installed:
        hashed = re.search(r"-r (\S+)", command)
        assert (
            (hashed[1] in LOCKS and given["PIP_REQUIRE_HASHES"] == "1") if hashed else "PIP_NO_INDEX" in given
        )
        assert given["PIP_ONLY_BINARY"] == ":all:"
