"""TASK_MODULES: where stages are looked for."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.taskmodules import load_stages

CELERY = Path(sysconfig.get_path("scripts")) / "celery"

#: What must be set; nothing is asked before the stages are loaded.
NEEDED = {
    "SERVICE_NAME": "shop",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "KAFKA_CONSUMER_GROUP": "shop",
    "SQS_TASK_QUEUE_URL": "http://127.0.0.1:1/0/tasks.fifo",
    "SQS_DLQ_URL": "http://127.0.0.1:1/0/dlq.fifo",
}

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


@pytest.mark.parametrize(
    ("command", "source", "said"),
    [
        (
            "worker",
            "import missing_library",
            "TASK_MODULES names 'orders', which cannot be imported: No module",
        ),
        ("bridge", STAGE.format("bill").replace("data: int", "data"), "@stage function bill (orders:4): its"),
    ],
)
def test_stages_that_cannot_be_loaded_keep_a_process_from_starting(
    tmp_path: Path, command: str, source: str, said: str
) -> None:
    """The script ``celery`` finds a module of the current folder; what is wrong with it is one line."""
    (tmp_path / "orders.py").write_text(source)
    done = subprocess.run(
        [CELERY, "-A", "pipeline", command],
        cwd=tmp_path,
        env={**os.environ, **NEEDED, "TASK_MODULES": "orders"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"Error: {said}" in done.stderr
    assert "Traceback" not in done.stderr
