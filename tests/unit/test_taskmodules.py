"""TASK_MODULES: where stages are looked for."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.taskmodules import load_stages

STAGE = """
from pipeline import stage

@stage(consumes="{0}-received")
def {0}(data: int) -> None: ...
"""


def package(folder: Path, name: str, **modules: str) -> None:
    """Write a package of modules; a name with two underscores stands in a subpackage."""
    for module, source in modules.items():
        path = folder.joinpath(name, *module.split("__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").touch()
        (path.parent / "__init__.py").touch()
        path.with_suffix(".py").write_text(source)


def test_every_module_of_a_package_is_loaded(tmp_path: Path) -> None:
    """A stage in any module of a named package is known, beside those of other packages."""
    package(tmp_path, "mine", mails=STAGE.format("mail"), inner__bills=STAGE.format("bill"))
    code = "from pipeline.taskmodules import load_stages; print(*load_stages(['mine', 'tasks']).by_name)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == {"mail", "bill", "extract", "analyse", "summarise"}


def test_a_module_that_is_not_there() -> None:
    """The setting, the name and the mend are said."""
    with pytest.raises(ConfigurationError, match=r"TASK_MODULES names 'nowhere', which cannot be imported"):
        load_stages(["nowhere"])


def test_a_module_that_lacks_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose module cannot be imported is not loaded in part."""
    package(tmp_path, "halfway", good="", bad="import missing_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=r"holds 'halfway.bad', which .*'missing_library'"):
        load_stages(["halfway"])


def test_stages_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    """The stages are checked once all are loaded."""
    loop = (
        STAGE.format("loop")
        .replace("-> None: ...", "-> int: return data")
        .replace('received"', 'received", emits="loop-received"')
    )
    package(tmp_path, "broken", loop=loop)
    code = "from pipeline.taskmodules import load_stages; load_stages(['broken'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "StageDefinitionError" in done.stderr
    assert "loop -> loop" in done.stderr
