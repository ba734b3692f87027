"""Services that share a table and an account cannot reach each other, with real calls behind the policies."""

import time

import pytest

from pipeline.author.loading import load_stages
from pipeline.errors import ServiceRefusedError
from pipeline.infra.iam import policy
from pipeline.infra.needs import ROLES, Role
from pipeline.infra.provision import provision
from pipeline.jobs import JobStore, NewJob
from pipeline.services.environment import Services
from pipeline.settings import Settings
from pipeline.sqs import OutgoingMessage, SqsQueue, sqs_client
from tests.conftest import MakeSettings
from tests.iamgate import gate

MODULE = "tests.integration.errands"


@pytest.fixture
def neighbours(embedded_services: Services, make_settings: MakeSettings) -> tuple[Settings, Settings]:
    """Two services whose jobs are in one table; each has one job."""
    registry = load_stages((MODULE,))
    mine = make_settings(embedded_services, TASK_MODULES=MODULE)
    other = make_settings(embedded_services, TASK_MODULES=MODULE, DYNAMODB_TABLE=mine.dynamodb_table)
    for settings in (mine, other):
        list(provision(settings, registry))
        assert JobStore(settings).records.open([_job("one")]).errors == [None]
    return mine, other


def _job(job_id: str) -> NewJob:
    plan = load_stages((MODULE,)).plan("lists")
    return NewJob(job_id=job_id, entity_id="k", topic="lists", plan=plan, submitted_at=time.time())


@pytest.mark.parametrize("role", ROLES)
def test_a_service_reaches_no_jobs_and_queues_but_its_own(
    neighbours: tuple[Settings, Settings],
    embedded_services: Services,
    monkeypatch: pytest.MonkeyPatch,
    role: Role,
) -> None:
    """Under each policy the calls succeed for the service itself, and are denied for its neighbour."""
    mine, other = neighbours
    document = policy(mine, load_stages((MODULE,)), role)
    with gate(document, embedded_services.environment["AWS_ENDPOINT_URL_SQS"]) as way:
        for name in ("SQS", "DYNAMODB"):
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name}", way.url)
        own, foreign = JobStore(mine), JobStore(other)
        assert own.records.get("one")
        assert list(own.records.get_now(["one"])) == ["one"]
        assert own.listing.progress("one")
        for call in (
            lambda: foreign.records.get("one"),
            lambda: foreign.records.get_now(["one"]),
            lambda: foreign.listing.progress("one"),
            lambda: foreign.listing.jobs(),
            lambda: SqsQueue(sqs_client(other), other.sqs_task_queue_url).depth(),
            lambda: SqsQueue(sqs_client(other), other.sqs_dlq_url).receive(
                wait_seconds=0, visibility_seconds=1
            ),
        ):
            with pytest.raises(ServiceRefusedError, match="not authorized"):
                call()
        (error,) = foreign.records.open([_job("two")]).errors
        assert isinstance(error, ServiceRefusedError)
        message = OutgoingMessage(body="x", group_id="g", deduplication_id="d")
        (refused,) = SqsQueue(sqs_client(other), other.sqs_task_queue_url).send([message])
        assert isinstance(refused, ServiceRefusedError)
