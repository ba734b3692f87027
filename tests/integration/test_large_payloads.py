"""Data that is too large for Kafka, SQS or DynamoDB, on the real worker and bridge: it goes by S3."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.jobs import JobState
from pipeline.payloads.client import s3_client
from pipeline.services.environment import Services
from pipeline.wire.references import REFERENCE_TYPE
from tests.conftest import MakeEnvironment
from tests.integration import workshop
from tests.integration.shop import Shop, open_shop
from tests.integration.workshop import Batch, Order
from tests.payloads import keys
from tests.processes import PATIENCE

BRIDGE = (sys.executable, "-m", "celery", "-A", "pipeline", "bridge")

#: More than any of the services takes.
LARGE = 1_500_000


@pytest.fixture(scope="module")
def shop(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop with a bucket and one worker."""
    with open_shop(
        embedded_services,
        make_environment,
        tmp_path_factory.mktemp("shop"),
        PAYLOAD_BUCKET="shop-payloads",
    ) as shop:
        shop.start()
        yield shop
        worker = shop.workers[-1]
        assert worker.poll() is None, "something ended the worker:\n" + shop.log()[-8000:]
        assert shop.stop(worker) == 0


def roles(shop: Shop) -> list[str]:
    return [key.split("/")[1] for key in keys(shop.settings)]


def forget(shop: Shop) -> None:
    """Delete all objects."""
    for key in keys(shop.settings):
        s3_client().delete_object(Bucket="shop-payloads", Key=key)


def test_a_large_event_is_emitted_and_runs_the_next_stage(shop: Shop) -> None:
    """The result goes to S3 before the event that names it; whole and once."""
    forget(shop)
    job_id = shop.submit(workshop.make, Order(key="emits", do="fill", size=LARGE))
    shop.wait_job(job_id)
    (record,) = [
        record for record, _ in shop.events("made") if dict(record.headers)["ce_jobid"] == job_id.encode()
    ]
    assert record.value == b""
    dataref = dict(record.headers)["ce_dataref"]
    (key,) = keys(shop.settings)
    assert dataref is not None
    assert dataref.decode().startswith(f"s3://shop-payloads/{key}#size=")
    data = json.loads(s3_client().get_object(Bucket="shop-payloads", Key=key)["Body"].read())
    assert data == {"key": "emits", "total": 0, "filling": "x" * LARGE}


def test_a_large_submission_goes_through_the_bridge(shop: Shop, tmp_path: Path) -> None:
    """``pipeline submit`` puts the data; the bridge names it in the task, and the worker reads it."""
    forget(shop)
    data = tmp_path / "orders.jsonl"
    data.write_text(Order(key="submitted", filling="x" * LARGE).model_dump_json())
    with shop.log_file.open("ab") as log:
        bridge = shop.children.start(BRIDGE, environment=shop.environment, output=log)
    result = CliRunner().invoke(
        main, ["submit", "make", "--file", str(data), "--wait", "--json"], env=shop.environment
    )
    assert result.exit_code == 0, result.output
    assert len(shop.lines("submitted", "end")) == 1
    assert sorted(roles(shop)) == ["event"]
    bridge.terminate()
    assert bridge.wait(PATIENCE) == 0


def test_parts_and_results_that_are_too_large_go_by_s3(shop: Shop) -> None:
    """The gather has each, in order, and no part runs twice."""
    forget(shop)
    job_id = shop.submit(workshop.pack, Batch(key="large-parts", parts=3, size=500_000, filled=True))
    shop.wait_job(job_id)
    (line,) = shop.lines("large-parts", "gather")
    assert (line["total"], line["bytes"]) == (3, 1_500_000)
    assert sorted(roles(shop)) == ["part"] * 3 + ["result"] * 3


def test_a_large_plain_task_runs_with_its_arguments(shop: Shop) -> None:
    """Published as any Celery task; its message is small."""
    forget(shop)
    text = "y" * LARGE
    shop.delay("note", "plain", text)
    (line,) = shop.wait_line("plain", "note")
    assert line["args"] == [text]
    assert roles(shop) == ["task"]


def test_a_large_plain_task_is_retried_by_celery(shop: Shop) -> None:
    """Its own retry publishes the arguments anew."""
    shop.delay("again", "plain-again", 2, "z" * LARGE)
    lines = shop.wait_line("plain-again", "note", 3)
    assert [line["retries"] for line in lines] == [0, 1, 2]


def test_errbacks_of_a_large_plain_task_are_called(shop: Shop) -> None:
    """With the request's arguments, fetched again."""
    order = {"key": "plain-fails", "do": "permanent", "filling": "w" * LARGE}
    errback = shop.signature("looked_at")
    shop.signature("do", order).apply_async(link_error=errback)
    (line,) = shop.wait_line("plain-fails", "called")
    assert "PermanentError" in line["error"]


def test_data_that_is_gone_is_a_dead_letter_with_the_mend(shop: Shop) -> None:
    """At once, without a run; the letter is small and names the object."""
    worker = shop.workers[-1]
    assert shop.stop(worker) == 0
    forget(shop)
    task_id = shop.delay("note", "gone", "v" * LARGE)
    assert roles(shop) == ["task"]
    forget(shop)
    shop.start()
    letter = shop.wait_letter(task_id)
    assert REFERENCE_TYPE in letter.body
    assert letter.attributes["error"] == "pipeline.errors.PayloadLostError"
    assert "lifecycle rule" in letter.attributes["reason"]
    assert len(letter.body) < 5_000
    assert not shop.lines("gone")


def test_without_a_bucket_it_is_the_failure_of_before(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    """A dead letter whose reason names the setting; nothing is on S3."""
    with open_shop(embedded_services, make_environment, tmp_path) as bare:
        worker = bare.start()
        job_id = bare.submit(workshop.pack, Batch(key="no-bucket", parts=1, size=500_000))
        bare.wait_job(job_id, JobState.FAILED)
        assert "set PAYLOAD_BUCKET" in bare.wait_letter(job_id).attributes["reason"]
        assert bare.stop(worker) == 0
