"""``pipeline migrate check`` as a person types it, in the folder of a project that has another broker."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PIPELINE = Path(sys.executable).with_name("pipeline")

CELERY = """
from celery import Celery

app = Celery("proj", broker="redis://:hunter2@127.0.0.1:1/0", include=["proj.tasks"])
app.conf.task_serializer = "pickle"
"""
TASKS = """
from celery import shared_task


@shared_task(autoretry_for=(OSError,))
def add(a, b):
    return a + b


@shared_task(autoretry_for=(OSError,))
def report(n):
    return add.delay(1, n).get(timeout=3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project: a package with an app and tasks."""
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj/__init__.py").touch()
    (tmp_path / "proj/celery.py").write_text(CELERY)
    (tmp_path / "proj/tasks.py").write_text(TASKS)
    return tmp_path


def check(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run it; nothing of this service's settings is in the environment."""
    return subprocess.run(
        [PIPELINE, "migrate", "check", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def found(folder: Path, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = json.loads(check(folder, *arguments, "--json", **environment).stdout)
    return answer


def test_it_says_what_to_change_with_file_and_line(folder: Path) -> None:
    """It connects to nothing: the broker of the app cannot be reached. No password is shown."""
    done = check(folder, "-A", "proj")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("error    broker_url: ")
    assert "pipeline.install(app)" in lines[1]
    assert "error    task_serializer: is 'pickle'" in lines
    assert "warning  proj/tasks.py:12  .get: reads a result" in lines
    assert lines[-1] == f"2 errors, 2 warnings, 0 notes. Searched {folder / 'proj'}."
    assert "hunter2" not in done.stdout + done.stderr


def test_a_project_that_is_converted_has_no_errors(folder: Path) -> None:
    """Before its environment has the settings of the service, too."""
    (folder / "proj/celery.py").write_text(
        "from celery import Celery\nimport pipeline\n\n"
        'app = Celery("proj", include=["proj.tasks"])\npipeline.install(app)\n'
    )
    done = check(folder, "-A", "proj.celery:app")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors" in done.stdout


def test_a_django_project_is_read_with_its_settings(folder: Path) -> None:
    """``config_from_object`` with a namespace, and tasks that are found by themselves in its apps."""
    (folder / "proj/settings.py").write_text(
        'INSTALLED_APPS = ["shop"]\nSECRET_KEY = "x"\nCELERY_BROKER_URL = "amqp://localhost"\n'
        'CELERY_TASK_ROUTES = {"shop.tasks.*": {"queue": "slow"}}\n'
    )
    (folder / "proj/celery.py").write_text(
        'from celery import Celery\n\napp = Celery("proj")\n'
        'app.config_from_object("django.conf:settings", namespace="CELERY")\napp.autodiscover_tasks()\n'
    )
    (folder / "shop").mkdir()
    (folder / "shop/__init__.py").touch()
    (folder / "shop/tasks.py").write_text(TASKS.replace("n):", "n):\n    add.apply_async(priority=3)"))
    errors = found(folder, "-A", "proj", DJANGO_SETTINGS_MODULE="proj.settings")
    about = [(each["level"], each["about"], each["where"]) for each in errors]
    assert ("error", "broker_url", None) in about
    assert ("warning", "task_routes, shop.tasks.*", None) in about
    assert ("warning", "apply_async()", "shop/tasks.py:12") in about


@pytest.mark.parametrize(
    ("file", "text", "name", "said"),
    [
        ("a.py", "", "nowhere", "There is no module 'nowhere'"),
        ("a.py", "x = 1", "a", "-A a names no Celery app. Name the module and the variable"),
        ("a.py", "x = 1", "a:x", "-A a:x names no Celery app"),
        ("a.py", "import missing_library", "a", "No module named 'missing_library' (a.py, line 1)"),
        ("a.py", "import os\nos.environ['UNSET']", "a", "raised KeyError: 'UNSET' (a.py, line 2)"),
        (
            "a.py",
            "None.app",
            "a",
            "raised AttributeError: 'NoneType' object has no attribute 'app' (a.py, line 1)",
        ),
        ("a.py", "None.app", "a:app", "raised AttributeError: 'NoneType'"),
        ("a.py", "raise SystemExit(3)", "a", "raised SystemExit: 3 (a.py, line 1)"),
        ("a.py", "def f(:", "a", "raised SyntaxError"),
        (
            "a.py",
            "from celery import Celery\napp = Celery('a', include=['b'])",
            "a",
            "Importing the task modules of a raised ModuleNotFoundError: No module named 'b'",
        ),
    ],
)
def test_what_cannot_be_loaded_is_one_line(
    tmp_path: Path, file: str, text: str, name: str, said: str
) -> None:
    """With where it went wrong and what to do; exit code 2."""
    (tmp_path / file).write_text(text)
    done = check(tmp_path, "-A", name)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said.replace("(a.py", f"({tmp_path / 'a.py'}") in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_source_that_does_not_exist_is_an_error(folder: Path) -> None:
    """Not an empty search."""
    done = check(folder, "-A", "proj", "--source", "shops")
    assert done.returncode == 2
    assert "There is no file or folder shops." in done.stderr
