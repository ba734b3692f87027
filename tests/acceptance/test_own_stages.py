"""The stages of docs/tutorial.md in a package of the user, run as a user runs them."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.services.children import children
from pipeline.services.environment import Services
from tests.acceptance.conftest import ROOT, Installed
from tests.conftest import MakeEnvironment

DOCS = ROOT / "docs" / "tutorial.md"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(
    installed: Installed, services: Services, make_environment: MakeEnvironment, tmp_path: Path
) -> Iterator[Run]:
    """Run a command of the installed wheel beside a bridge and a worker that know the package ``shop``."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    for name, source in re.findall(r"```python\n# (shop/\w+\.py)\n(.*?)```", DOCS.read_text(), re.DOTALL):
        (tmp_path / name).write_text(source)
    environment = make_environment(services, TASK_MODULES="shop")

    def run(*arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [installed.pipeline, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        logs = "".join(log.read_text() for log in tmp_path.glob("*.log"))
        assert done.returncode == code, done.stdout + done.stderr + logs
        return done

    run("provision")
    with children() as started:
        for name in ("bridge", "worker"):
            with (tmp_path / f"{name}.log").open("wb") as log:
                started.start([*installed.celery, name], environment=environment, output=log, folder=tmp_path)
        yield run


def order(*amounts: int) -> str:
    lines = [{"article": f"a{number}", "amount": amount} for number, amount in enumerate(amounts)]
    return json.dumps({"customer": "ada", "lines": lines})


def test_a_job_goes_through_stages_of_ones_own(run: Run, tmp_path: Path) -> None:
    """Written, submitted, split, gathered, done: the result is the sum, and the job is complete."""
    done = run("submit", "price", "--data", order(1, 2, 3), "--entity", "c-7", "--wait", "--json")
    (job,) = map(json.loads, done.stdout.splitlines())
    assert job["state"] == "complete"
    sent = json.loads((tmp_path / "mails" / "ada.mail").read_text())
    assert sent == {"customer": "ada", "total": 60, "entity": "c-7"}
    shown: dict[str, Any] = json.loads(run("jobs", "show", job["job_id"], "--json").stdout)
    assert {each["stage"]: (each["state"], each["done"], each["total"]) for each in shown["stages"]} == {
        "price": ("done", 3, 3),
        "mail": ("done", 1, 1),
    }


def test_a_part_that_fails_fails_its_job_with_the_reason(run: Run) -> None:
    """The other parts run, the job is failed, and the reason is shown."""
    done = run("submit", "price", "--data", order(1, -2, 3), "--wait", code=1)
    assert "price (1): pipeline.errors.PermanentError: a1: nobody can order -2" in done.stdout
    job_id = done.stdout.split()[0]
    shown: dict[str, Any] = json.loads(run("jobs", "show", job_id, "--json").stdout)
    stage = shown["stages"][0]
    assert (stage["state"], stage["done"], stage["failed"]) == ("failed", 2, 1)


def test_a_split_of_nothing_is_gathered(run: Run, tmp_path: Path) -> None:
    """No parts, and still one result."""
    run("submit", "price", "--data", order(), "--wait")
    assert json.loads((tmp_path / "mails" / "ada.mail").read_text())["total"] == 0
