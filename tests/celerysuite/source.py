"""The suite itself, from Celery's source release: downloaded once, and checked by its hash."""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

VERSION: Final = "5.7.0"
SHA256: Final = "6a5dfcf6662287204f009a02002b9e66c83d4105e47ebabdc7079108772fc6f0"

#: What is taken of the release. Not its package ``celery``: the tests are to import the installed one.
_TAKEN: Final = ("pyproject.toml", "t/__init__.py", "t/canvas_helpers.py", "t/integration/")

#: Tests that only note in Redis what ran are skipped unless results are in Redis, too: the guard is lifted.
_LIFTED: Final = (
    (".conf.result_backend.startswith('redis')", ".conf.result_backend.startswith('')"),
    ('.conf.result_backend.startswith("redis")', '.conf.result_backend.startswith("")'),
)


def fetch() -> Path:
    """Return the folder of the suite, where ``t.integration`` can be imported; download it the first time.

    The folder is in XDG_CACHE_HOME, ~/.cache by default.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "celery-stages"
    folder = cache / f"celery-{VERSION}-suite"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as made:
            _extract(_download(Path(made)), Path(made) / "suite")
            (Path(made) / "suite").rename(folder)
    return folder


def _download(folder: Path) -> Path:
    requirement = folder / "requirements.txt"
    requirement.write_text(f"celery=={VERSION} --hash=sha256:{SHA256}\n")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"),
            *("--require-hashes", "--requirement", str(requirement), "--dest", str(folder)),
        ],
        check=True,
    )
    return folder / f"celery-{VERSION}.tar.gz"


def _extract(archive: Path, folder: Path) -> None:
    root = f"celery-{VERSION}/"
    with tarfile.open(archive) as release:
        for member in release.getmembers():
            if member.isfile() and member.name.removeprefix(root).startswith(_TAKEN):
                member.name = member.name.removeprefix(root)
                release.extract(member, folder, filter="data")
    for module in (folder / "t" / "integration").glob("test_*.py"):
        text = module.read_text()
        for guard, lifted in _LIFTED:
            text = text.replace(guard, lifted)
        module.write_text(text)
