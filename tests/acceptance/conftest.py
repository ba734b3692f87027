"""The project as a user has it: built as a wheel, and installed outside the checkout."""

import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Installed:
    """The installed wheel: programs of a virtual environment that knows nothing of the checkout."""

    wheel: Path
    scripts: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.scripts / "python"

    @property
    def pipeline(self) -> Path:
        """The command ``pipeline``, as pip made it."""
        return self.scripts / "pipeline"

    @property
    def celery(self) -> tuple[str, ...]:
        """The command ``celery -A pipeline``: a script, with only its own folder in the path."""
        return (str(self.scripts / "celery"), "-A", "pipeline")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build the wheel, and install it in an environment that takes its dependencies from this one.

    A plain line of a .pth file adds the folder of the dependencies, and none of the .pth files in it: the
    editable install of the checkout stays unseen.
    """
    folder = tmp_path_factory.mktemp("installed")
    _run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    [wheel] = folder.glob("*.whl")
    place = folder / "venv"
    venv.create(place, symlinks=True)
    scripts = place / "bin"
    _run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        scripts / "python",
        "install",
        "--no-deps",
        "--no-index",
        wheel,
    )
    dependencies = Path(sysconfig.get_path("purelib"))
    [packages] = place.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")
    celery = (Path(sysconfig.get_path("scripts")) / "celery").read_text().splitlines(keepends=True)
    (scripts / "celery").write_text("".join([f"#!{scripts}/python\n", *celery[1:]]))
    (scripts / "celery").chmod(0o755)
    return Installed(wheel, scripts)


def _run(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
