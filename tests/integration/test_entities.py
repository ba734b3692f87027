"""Entities within a job, on a real bridge and worker: a file of many customers, in order for each of them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import Client
from pipeline.infra.provision import provision
from pipeline.jobs import JobStore
from pipeline.kafka import newest_records
from pipeline.services.children import children
from pipeline.services.environment import Services
from pipeline.settings import load_settings
from tests.conftest import MakeEnvironment
from tests.integration.banking import File, Row
from tests.ownstages import stages_of
from tests.processes import PATIENCE

CELERY = (sys.executable, "-m", "celery", "-A", "pipeline")

CUSTOMERS = ("ada", "bob", "cyd")

#: Rows of a file; interleaved, a customer has every third.
ROWS = 60


@pytest.fixture
def environment(
    embedded_services: Services,
    make_environment: MakeEnvironment,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[dict[str, str]]:
    """The variables of a bank with a bridge and a worker of three processes."""
    module = "tests.integration.banking"
    environment = make_environment(
        embedded_services, TASK_MODULES=module, BANKING_LOG=str(tmp_path / "banking.log")
    )
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    list(provision(load_settings(environment), stages_of(module)))
    with children() as started:
        for name, *options in (["bridge"], ["worker", "--concurrency", "3"]):
            with (tmp_path / f"{name}.log").open("wb") as log:
                started.start([*CELERY, name, *options], environment=environment, output=log)
        yield environment


def lines(environment: dict[str, str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(environment["BANKING_LOG"]).read_text().splitlines()]


def test_a_file_of_many_customers_is_booked_in_order_for_each(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Across two jobs a customer's rows run one at a time and in order, and customers beside each other."""
    files = [
        File(
            name=f"file-{day}",
            bank=f"bank-{day}",
            rows=[Row(customer=CUSTOMERS[n % 3], number=day * ROWS + n) for n in range(ROWS)],
        )
        for day in range(2)
    ]
    with Client(environment) as client:
        jobs = [client.submit("book", file, entity="bank-files") for file in files]
        logs = "".join(log.read_text()[-3_000:] for log in tmp_path.glob("*.log"))
        assert [job.result(2 * PATIENCE) for job in jobs] == ["file-0: 60", "file-1: 60"], logs
    written = lines(environment)
    for at, customer in enumerate(CUSTOMERS):
        its = [line for line in written if line["entity"] == customer]
        numbers = range(at, 2 * ROWS, 3)
        assert [(line["what"], line["number"]) for line in its] == [
            (what, number) for number in numbers for what in ("begin", "end")
        ]
        assert {line["job"] for line in its} == {job.id for job in jobs}
    assert _beside(written), "customers waited for each other"
    announced = {
        line["file"]: (line["entity"], line["job"]) for line in written if line["what"] == "announced"
    }
    assert announced == {f"file-{day}": (f"bank-{day}", jobs[day].id) for day in range(2)}
    settings = load_settings(environment)
    keys = sorted(record.key or b"" for record in newest_records(settings, settings.topic("bank-booked"), 10))
    assert keys == [b"bank-0", b"bank-1"]
    page = JobStore(settings).listing.jobs(entity_id="bank-files")
    assert {job.job_id for job in page.jobs} == {job.id for job in jobs}, "a job keeps its own entity"


def _beside(written: list[dict[str, Any]]) -> bool:
    """Whether one customer's row began while another's ran."""
    open_rows: set[str] = set()
    for line in written:
        if line["what"] == "begin":
            open_rows.add(line["entity"])
        open_rows -= {line["entity"]} if line["what"] == "end" else set()
        if len(open_rows) > 1:
            return True
    return False
