"""The wheel: what it holds, and that it works beside a user's own code, outside the checkout."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.services.children import children
from pipeline.services.environment import Services
from tests.acceptance.conftest import ROOT, Installed
from tests.conftest import MakeEnvironment
from tests.unit.test_taskmodules import NEEDED


def run(*command: object, folder: Path, environment: dict[str, str] | None = None) -> str:
    """The standard output of a command that succeeds."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    logs = "".join(log.read_text() for log in folder.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(installed: Installed) -> None:
    """Every file of pipeline/, also those that are no Python, and no other package."""
    with zipfile.ZipFile(installed.wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith("/")}
    metadata = {name for name in held if name.split("/")[0].endswith(".dist-info")}
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "pipeline").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held - metadata == there
    assert {
        "pipeline/py.typed",
        "pipeline/services/pom.xml",
        "pipeline/web/pages/templates/base.html",
        "pipeline/web/pages/static/pages.css",
    } < held
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def test_the_wheel_says_what_it_is(installed: Installed) -> None:
    """Name, version, licence and extras of the metadata, and the version of the installed command."""
    with zipfile.ZipFile(installed.wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("METADATA")]
        metadata = archive.read(name).decode()
    version = run(installed.pipeline, "--version", folder=installed.wheel.parent).split()[-1]
    for line in (
        "Name: celery-stages",
        f"Version: {version}",
        "License-Expression: Apache-2.0",
        "Provides-Extra: all",
        "Provides-Extra: web",
    ):
        assert re.search(rf"^{line}$", metadata, re.MULTILINE), line


def test_the_checkout_is_not_seen(installed: Installed, tmp_path: Path) -> None:
    """The installed package is the one that is imported, and the checkout's other packages are not there."""
    program = """
import importlib.util, json, sys, pipeline
names = ["config", "consumers", "tasks", "tests", "benchmarks"]
print(json.dumps([pipeline.__file__, sys.path, [name for name in names if importlib.util.find_spec(name)]]))
"""
    file, path, found = json.loads(run(installed.python, "-c", program, folder=tmp_path))
    assert Path(file).is_relative_to(installed.scripts.parent)
    assert str(ROOT) not in path
    assert found == []


@pytest.mark.parametrize("command", ["bridge", "worker", "check"])
def test_the_default_stages_are_a_package_of_the_user(
    installed: Installed, tmp_path: Path, command: str
) -> None:
    """Without TASK_MODULES and without a package ``tasks`` nothing starts: the wheel brings no example."""
    environment = {name: value for name, value in os.environ.items() if name != "TASK_MODULES"}
    done = subprocess.run(
        [installed.pipeline, command] if command == "check" else [*installed.celery, command],
        cwd=tmp_path,
        env={**environment, **NEEDED, "AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    said = f"Error: TASK_MODULES names 'tasks', which is not there: no module 'tasks' in {tmp_path}"
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_runs(installed: Installed, tmp_path: Path) -> None:
    """``pipeline demo`` of the installed wheel has its stages and services with it."""
    (tmp_path / "one.txt").write_text("one document, with six words\n")
    report: dict[str, Any] = json.loads(run(installed.pipeline, "demo", "one.txt", "--json", folder=tmp_path))
    assert (report["verified"], report["jobs_completed"], report["words"]) == (True, 1, 5)


#: A Django project as "django-admin startproject config ." makes it, with packages of its own that have the
#: names of folders of this repository.
DJANGO = {
    "config/__init__.py": "",
    "config/settings.py": """
import os
from pathlib import Path

SECRET_KEY = os.environ["DJANGO_SECRET_KEY"]
INSTALLED_APPS = ["warehouse"]
NAME = Path(__file__).parents[1] / "db.sqlite3"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": NAME}}
USE_TZ = True
""",
    "consumers/__init__.py": "DISCOUNT = 3\n",
    "warehouse/__init__.py": "",
    "warehouse/models.py": """
from django.db import models


class Sale(models.Model):
    article = models.CharField(max_length=100)
    amount = models.IntegerField()
""",
    "tasks/__init__.py": "",
    "tasks/sales.py": """
import consumers
from django.conf import settings

from pipeline import stage


@stage(consumes="article-sold", emits="sale-stored")
def discount(data: dict[str, int]) -> dict[str, int]:
    assert settings.configured
    return {article: amount - consumers.DISCOUNT for article, amount in data.items()}


@stage(consumes="sale-stored")
def store(data: dict[str, int]) -> None:
    from warehouse.models import Sale

    for article, amount in data.items():
        Sale.objects.create(article=article, amount=amount)
""",
}


def test_a_django_project_with_a_package_called_config(
    installed: Installed, tmp_path: Path, embedded_services: Services, make_environment: MakeEnvironment
) -> None:
    """Its own ``config``, ``tasks`` and ``consumers`` are imported, by worker, bridge and command."""
    for name, source in DJANGO.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    environment = make_environment(
        embedded_services, DJANGO_SETTINGS_MODULE="config.settings", DJANGO_SECRET_KEY="for-tests"
    )
    environment.pop("TASK_MODULES", None)
    run(installed.python, "-m", "django", "migrate", "--run-syncdb", folder=tmp_path, environment=environment)
    run(installed.pipeline, "provision", folder=tmp_path, environment=environment)
    with children() as started:
        for name, *options in (["bridge"], ["worker", "--concurrency", "1"]):
            with (tmp_path / f"{name}.log").open("wb") as log:
                command = [*installed.celery, name, *options]
                started.start(command, environment=environment, output=log, folder=tmp_path)
        submit = ("submit", "discount", "--data", '{"chair": 10}', "--wait")
        run(installed.pipeline, *submit, folder=tmp_path, environment=environment)
    with sqlite3.connect(tmp_path / "db.sqlite3") as database:
        assert database.execute("SELECT article, amount FROM warehouse_sale").fetchall() == [("chair", 7)]


def test_the_service_of_this_repository_can_be_forked(
    installed: Installed, tmp_path: Path, embedded_services: Services, make_environment: MakeEnvironment
) -> None:
    """Its folders alone, beside the installed package, are a service: its own bridge feeds its stages."""
    for folder in ("tasks", "consumers", "config"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    environment = make_environment(embedded_services)
    environment.pop("TASK_MODULES", None)
    order = json.dumps({"customer": "ada", "lines": [{"article": "chair", "amount": 2}]})
    run(installed.pipeline, "provision", folder=tmp_path, environment=environment)
    with children() as started:
        for name, command in (
            ("bridge", [str(installed.python), "-m", "consumers"]),
            ("worker", [*installed.celery, "worker", "--concurrency", "1"]),
        ):
            with (tmp_path / f"{name}.log").open("wb") as log:
                started.start(command, environment=environment, output=log, folder=tmp_path)
        submit = ("submit", "price", "--data", order, "--entity", "c-7", "--wait")
        run(installed.pipeline, *submit, folder=tmp_path, environment=environment)
    assert json.loads((tmp_path / "mails" / "ada.mail").read_text()) == {
        "customer": "ada",
        "total": 20,
        "entity": "c-7",
    }


def test_stages_are_type_checked_against_the_installed_package(installed: Installed, tmp_path: Path) -> None:
    """``mypy --strict`` knows the types of stages, and finds what does not fit."""
    shutil.copy(ROOT / "tests" / "typing" / "api.py", tmp_path / "stages.py")
    arguments = ("--strict", "--config-file=", "--python-executable", installed.python, "stages.py")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")
    }
    said = run(sys.executable, "-m", "mypy", *arguments, folder=tmp_path, environment=environment)
    assert "no issues found in 1 source file" in said
