"""From a failing task to a complete job, with a real worker: dead letter, look, redrive, success."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydantic import RootModel

from pipeline.author.loading import load_stages
from pipeline.cli import main
from pipeline.jobs import JobState
from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.integration import mending
from tests.integration.shop import Shop, open_shop

MODULE = "tests.integration.mending"
Names = RootModel[list[str]]
Name = RootModel[str]


@pytest.fixture(scope="module")
def shop(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A worker that fails until what was wrong is mended."""
    folder = tmp_path_factory.mktemp("mending")
    variables = {"TASK_MODULES": MODULE, "MENDED": str(folder / "mended")}
    (folder / "mended").mkdir()
    with open_shop(embedded_services, make_environment, folder, **variables) as shop:
        shop.registry = load_stages((MODULE,))
        worker = shop.start()
        yield shop
        assert shop.stop(worker) == 0


def run(shop: Shop, *arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments, env=shop.environment)
    assert result.exit_code == 0, result.output
    return result


def mend(shop: Shop, what: str) -> None:
    (Path(shop.environment["MENDED"]) / what).touch()


def told(shop: Shop, job_id: str) -> Counter[str]:
    """How many different events say what about a job."""
    events = {
        (dict(message.headers)["ce_type"].decode(), dict(message.headers)["ce_id"])
        for topic in ("errors", "jobs")
        for message, _ in shop.events(topic)
        if dict(message.headers).get("ce_jobid") == job_id.encode()
    }
    return Counter(kind for kind, _ in events)


def test_a_redriven_part_that_succeeds_completes_its_job(shop: Shop) -> None:
    """Failing, looked at, redriven in vain, redriven with success: one end, and all of it is told."""
    mend(shop, "cup")
    mend(shop, "jug")
    job_id = shop.submit(mending.fix, Names(["cup", "vase", "jug"]))
    shop.wait_job(job_id, JobState.FAILED)
    shown = run(shop, "jobs", "show", job_id).stdout
    assert "fix (1) failed, attempts 1: builtins.ValueError: vase is broken" in shown
    assert re.search(r"fix +failed +2/3 +1", shown)
    listed = json.loads(run(shop, "dlq", "list", "--job", job_id, "--json").stdout)
    assert (listed["part"], listed["reason"], listed["worker"]) == ("1/3", "vase is broken", "w0@test")

    run(shop, "dlq", "redrive", "--job", job_id, "--yes")
    shop.wait(lambda: told(shop, job_id)["job-failed"] == 2, "it failed anew")
    assert shop.job(job_id).state is JobState.FAILED
    mend(shop, "vase")
    run(shop, "dlq", "redrive", "--job", job_id, "--yes")
    shop.wait_job(job_id)
    assert told(shop, job_id) == {"task-failed": 2, "job-failed": 2, "job-complete": 1}
    assert [data for message, data in shop.events("boxes")] == [3]
    assert json.loads(run(shop, "jobs", "show", job_id, "--json").stdout)["failures"] == []
    shop.wait_empty()


def test_jobs_of_which_several_parts_failed_complete_when_all_are_redriven(shop: Shop) -> None:
    """All parts of several jobs at once, by one command."""
    jobs = [shop.submit(mending.fix, Names([f"plate-{n}", f"bowl-{n}"])) for n in range(3)]
    for job_id in jobs:
        shop.wait_job(job_id, JobState.FAILED)
    for n in range(3):
        mend(shop, f"plate-{n}")
        mend(shop, f"bowl-{n}")
    run(shop, "dlq", "redrive", "--stage", "fix", "--yes")
    for job_id in jobs:
        shop.wait_job(job_id)
        assert told(shop, job_id)["job-complete"] == 1
    assert run(shop, "dlq", "list", "--json").stdout == ""


def test_an_ordered_task_is_redriven_out_of_order(shop: Shop) -> None:
    """Its followers passed it; it runs again in its group, and its job completes."""
    mend(shop, "second")
    first, second = (shop.submit(mending.serve, Name(name), entity="ada") for name in ("first", "second"))
    shop.wait_job(first, JobState.FAILED)
    shop.wait_job(second)
    mend(shop, "first")
    run(shop, "dlq", "redrive", "--job", first, "--yes", "--out-of-order")
    shop.wait_job(first)


def test_a_gather_runs_without_what_is_tolerated(shop: Shop) -> None:
    """It is told what is missing; the job completes, and the dead letter is only removed."""
    mend(shop, "oak")
    job_id = shop.submit(mending.paint, Names(["oak", "ash"]))
    shop.wait_job(job_id)
    assert [data for _, data in shop.events("painted")] == [{"painted": ["oak"], "missing": [1]}]
    assert "paint (1) failed, attempts 1" in run(shop, "jobs", "show", job_id).stdout
    assert told(shop, job_id) == {"task-failed": 1, "job-complete": 1}
    assert "1 removed" in run(shop, "dlq", "redrive", "--job", job_id, "--yes").stderr


def test_a_plain_task_is_redriven(shop: Shop) -> None:
    """It belongs to no job, and runs again."""
    shop.app.send_task(f"{MODULE}.patch", args=["hole"], task_id="t-1")
    shop.wait(lambda: run(shop, "dlq", "list", "--json").stdout, "a dead letter")
    letter = json.loads(run(shop, "dlq", "list", "--json").stdout)
    assert (letter["task"], letter["task_id"], letter["job_id"]) == (f"{MODULE}.patch", "t-1", None)
    mend(shop, "hole")
    run(shop, "dlq", "redrive", letter["id"], "--yes")
    shop.wait_empty()
    assert run(shop, "dlq", "list", "--json").stdout == ""
