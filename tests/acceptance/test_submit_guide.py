"""The examples of docs/guides/submit.md, run as they stand: FastAPI, Django and a script call one service."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.services.children import children
from pipeline.services.environment import Services
from tests.acceptance.conftest import ROOT
from tests.conftest import MakeEnvironment
from tests.processes import PATIENCE, free_port, wait_until

SETTINGS = """
SECRET_KEY = "for-tests"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "views"
"""

CELERY = (sys.executable, "-m", "celery", "-A", "pipeline")


class Guide:
    """The services of the guide: their folder, variables and addresses."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.api, self.django = free_port(), free_port()

    @property
    def processes(self) -> dict[str, tuple[str, ...]]:
        serve = ("uvicorn", "api:app", "--port", str(self.api))
        return {
            "bridge": (*CELERY, "bridge"),
            "worker": (*CELERY, "worker", "--concurrency", "1"),
            "api": (sys.executable, "-m", *serve),
            "django": (sys.executable, "-m", "django", "runserver", "--noreload", f"127.0.0.1:{self.django}"),
        }

    def ask(self, port: int, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}",
            data=data,
            method=method,
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                is_json = error.headers.get_content_type() == "application/json"
                return error.code, json.load(error) if is_json else None

    def logs(self) -> str:
        return "\n".join(path.read_text()[-4_000:] for path in self.folder.glob("*.log"))


def examples() -> dict[str, str]:
    """The files of the guide, and the one block without a name: the script."""
    text = (ROOT / "docs" / "guides" / "submit.md").read_text()
    found = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        named = re.match(r"# (\S+\.py)\n", block)
        found[named[1] if named else "script.py"] = block
    return found


@pytest.fixture(scope="module")
def guide(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guide]:
    folder = tmp_path_factory.mktemp("guide")
    environment = make_environment(
        embedded_services,
        TASK_MODULES="shop",
        PYTHONPATH=str(folder),
        SERVICE_TOPIC_PARTITIONS="4",
    )
    for name, text in {**examples(), "djangosettings.py": SETTINGS, "shop/__init__.py": ""}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    guide = Guide(folder, environment)
    provision = (sys.executable, "-c", "from pipeline.cli import main; main()", "provision")
    done = subprocess.run(
        provision, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with children() as started:
        for name, command in guide.processes.items():
            # Named to the others, Celery would set up Django for the stages.
            django = {"DJANGO_SETTINGS_MODULE": "djangosettings"} if name == "django" else {}
            with (folder / f"{name}.log").open("wb") as log:
                started.start(command, environment={**environment, **django}, output=log, folder=folder)
        for port in (guide.api, guide.django):
            wait_until(partial(_answers, guide, port), f"port {port}: {guide.logs()}")
        yield guide


def _answers(guide: Guide, port: int) -> bool:
    try:
        return guide.ask(port, "GET", "/nothing")[0] == 404
    except urllib.error.URLError:
        return False


def test_a_fastapi_service_submits_and_waits(guide: Guide) -> None:
    """A request that is repeated is one job; its result is the last stage's; an unknown job is a 404."""
    order = {"customer": "ada", "amounts": [1, 2]}
    first, again = (guide.ask(guide.api, "PUT", "/orders/17", order) for _ in range(2))
    assert first == again, guide.logs()
    assert first[0] == 202
    assert guide.ask(guide.api, "GET", f"/jobs/{first[1]['job']}") == (200, {"total": 30}), guide.logs()
    assert guide.ask(guide.api, "GET", "/jobs/nobody")[0] == 404
    assert guide.ask(guide.api, "PUT", "/orders/18", {"customer": "ada"})[0] == 422


def test_a_django_service_without_the_stages_submits(guide: Guide) -> None:
    """By the topic's name alone; the key of another order is a conflict, whichever service submitted it."""
    order = {"customer": "bob", "amounts": [5]}
    first, again = (guide.ask(guide.django, "PUT", "/orders/27", order) for _ in range(2))
    assert first[0] == 202, guide.logs()
    assert (first[1]["again"], again[1]) == (False, {"job": first[1]["job"], "again": True})
    assert guide.ask(guide.api, "GET", f"/jobs/{first[1]['job']}") == (200, {"total": 50}), guide.logs()
    status, answer = guide.ask(guide.api, "PUT", "/orders/28", order)
    assert status == 202, guide.logs()
    status, said = guide.ask(guide.django, "PUT", "/orders/28", {**order, "amounts": []})
    assert status == 409
    assert answer["job"] in said["error"]


def test_the_script_of_the_guide_gets_its_result(guide: Guide) -> None:
    """The first example, with its result printed."""
    script = (guide.folder / "script.py").read_text().replace("job.result(timeout=30)", "print(job.result())")
    done = subprocess.run(
        (sys.executable, "-c", script),
        cwd=guide.folder,
        env=guide.environment,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.stdout == "30\n", done.stderr + guide.logs()
