"""TASK_MODULES: where stages are searched."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pipeline.author.loading import load_stages
from pipeline.errors import ConfigurationError

CELERY = Path(sysconfig.get_path("scripts")) / "celery"

#: The required settings; no service is asked before the stages are loaded.
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
    code = (
        "from pipeline.author.loading import load_stages; "
        "print(*load_stages(['mine', 'pipeline.demo.documents']).by_name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == {"mail", "bill", "extract", "analyse", "summarise"}


@pytest.mark.parametrize(("name", "missing"), [("nowhere", "nowhere"), ("pipeline.no.where", "pipeline.no")])
def test_a_module_that_is_not_there(name: str, missing: str) -> None:
    """The setting, the name, where it was looked for and the mend are said."""
    with pytest.raises(ConfigurationError) as caught:
        load_stages([name])
    assert f"TASK_MODULES names {name!r}, which is not there: no module {missing!r} in {Path.cwd()}" in str(
        caught.value
    )


def test_a_module_that_lacks_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose module cannot be imported is not loaded in part."""
    package(tmp_path, "halfway", good="", bad="import missing_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=r"holds 'halfway.bad', which .*'missing_library'"):
        load_stages(["halfway"])


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import os\nX = os.environ['NOT_THERE']", r"KeyError: 'NOT_THERE' \(.*failing\.py, line 2\)$"),
        ("def f(:", r"SyntaxError: invalid syntax \(failing\.py, line 1\)$"),
        ("raise RuntimeError('no database\\nat all')", r"RuntimeError: no database at all \(.*line 1\)$"),
        ("raise ValueError", r"ValueError \(.*line 1\)$"),
        ("import sys\nsys.exit(3)", r"SystemExit: 3 \(.*line 2\)$"),
        ("raise ValueError('x' * 9_999)", r"ValueError: x{300}… \("),
    ],
    ids=["KeyError", "SyntaxError", "RuntimeError", "nothing said", "exit", "long"],
)
def test_a_module_that_fails_at_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, cause: str
) -> None:
    """Whatever it raises: one line with the setting, the module, the cause and its place."""
    package(tmp_path, "afresh", failing=source)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("afresh", "afresh.failing"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(ConfigurationError, match=rf"'afresh.failing', which cannot be imported: {cause}"):
        load_stages(["afresh"])


#: Stands for Django: models cannot be imported before its apps are loaded.
DJANGO = """
ready = False

def setup():
    import os
    __import__(os.environ["DJANGO_SETTINGS_MODULE"])
    global ready
    ready = True
"""


@pytest.mark.parametrize(("settings", "code"), [("project_settings", 0), ("missing_settings", 2)])
def test_commands_set_django_up_as_a_worker_does(tmp_path: Path, settings: str, code: int) -> None:
    """Stages that import models load in every command; settings that are not there are one line."""
    package(tmp_path, "django", db="")
    (tmp_path / "django" / "__init__.py").write_text(DJANGO)
    (tmp_path / "project_settings.py").touch()
    models = "import django\nassert django.ready, 'AppRegistryNotReady'\n"
    (tmp_path / "orders.py").write_text(models + STAGE.format("bill"))
    environment = {
        **os.environ,
        **NEEDED,
        "TASK_MODULES": "orders",
        "DJANGO_SETTINGS_MODULE": settings,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    done = subprocess.run(
        [CELERY.with_name("pipeline"), "provision", "--export", "terraform"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert ("bill-received" in done.stdout) is (code == 0)
    assert ("DJANGO_SETTINGS_MODULE names 'missing_settings'" in done.stderr) is (code == 2)


def test_stages_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    """The stages are checked once all are loaded."""
    loop = (
        STAGE.format("loop")
        .replace("-> None: ...", "-> int: return data")
        .replace('received"', 'received", emits="loop-received"')
    )
    package(tmp_path, "broken", loop=loop)
    code = "from pipeline.author.loading import load_stages; load_stages(['broken'])"
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
        ("worker", "raise KeyError", "TASK_MODULES names 'orders', which cannot be imported: KeyError ("),
        ("bridge", "1 / 0", "TASK_MODULES names 'orders', which cannot be imported: ZeroDivisionError: "),
        ("check", "1 / 0", "TASK_MODULES names 'orders', which cannot be imported: ZeroDivisionError: "),
        ("check", STAGE.format("bill").replace("data: int", "data"), "@stage function bill (orders:4): its"),
    ],
)
def test_stages_that_cannot_be_loaded_keep_a_process_from_starting(
    tmp_path: Path, command: str, source: str, said: str
) -> None:
    """The script ``celery`` finds a module of the current folder; what is wrong with it is one line."""
    (tmp_path / "orders.py").write_text(source)
    done = subprocess.run(
        [CELERY.with_name("pipeline"), command]
        if command == "check"
        else [CELERY, "-A", "pipeline", command],
        cwd=tmp_path,
        env={**os.environ, **NEEDED, "TASK_MODULES": "orders", "AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"Error: {said}" in done.stderr
    assert "Traceback" not in done.stderr
