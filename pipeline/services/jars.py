"""The servers' jar files: fetched with Maven at pinned versions, and cached for the user."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.etree import ElementTree

from pipeline.errors import ConfigurationError, ServiceUnavailableError

POM = Path(__file__).with_name("pom.xml")

#: Seconds to fetch one server's jars; about 50 MB each.
FETCH_TIMEOUT = 600.0


def versions() -> dict[str, str]:
    """Return the pinned version of each server, by its name."""
    root = ElementTree.parse(POM).getroot()  # noqa: S314 - this package's own file
    namespace = {"m": "http://maven.apache.org/POM/4.0.0"}
    names = [element.text or "" for element in root.findall("m:profiles/m:profile/m:id", namespace)]
    return {name: root.findtext(f"m:properties/m:{name}.version", "", namespace) for name in names}


def cache_folder() -> Path:
    """Return the folder for the jars of these versions."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "pipeline" / "services" / hashlib.sha256(POM.read_bytes()).hexdigest()[:16]


def missing_programs(names: Iterable[str]) -> list[str]:
    """Return which of ``java`` and ``mvn`` these servers lack; mvn only until the jars are cached."""
    needed = ["java"] if all((cache_folder() / name).is_dir() for name in names) else ["java", "mvn"]
    return [program for program in needed if shutil.which(program) is None]


def require_programs(names: Iterable[str]) -> None:
    """Raise ConfigurationError when java or mvn is needed for these servers and missing."""
    if missing := missing_programs(names):
        raise ConfigurationError(
            f"The local services need {' and '.join(missing)}, not found on PATH. Install "
            f"{'them' if len(missing) > 1 else 'it'}, or use the embedded services: "
            "pip install 'celery-stages[embedded]', then pipeline dev --services embedded."
        )


def fetch(name: str, progress: Callable[[str], None]) -> Path:
    """Return the folder with the jars of one server; fetch them first if needed."""
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    progress(f"fetching {name} {versions()[name]} from Maven Central")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        _copy_dependencies(name, Path(scratch) / name)
        for archive in (Path(scratch) / name).glob("*.tar.gz"):
            with tarfile.open(archive) as packed:
                packed.extractall(archive.parent, filter="data")
            archive.unlink()
        try:
            (Path(scratch) / name).rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first: the same files
                raise
    return folder


def _copy_dependencies(name: str, target: Path) -> None:
    command = ["mvn", "-q", "-B", "-ntp", "-f", str(POM), "-P", name, "dependency:copy-dependencies"]
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    try:
        done = subprocess.run(
            command + options,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=FETCH_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceUnavailableError(f"mvn did not fetch {name} in {FETCH_TIMEOUT:g} s.") from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise ServiceUnavailableError(f"mvn could not fetch {name} (exit code {done.returncode}):\n{tail}")
