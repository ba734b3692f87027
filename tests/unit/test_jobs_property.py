"""Any schedule of crashes, lost replies, copies, failures and redrives, on an in-memory wire."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fakes.dynamodb import FakeDynamoDB
from tests.jobs_machine import JobsMachine, small_tree

pytestmark = pytest.mark.usefixtures("_small_tree")


@pytest.fixture(name="_small_tree")
def small_tree_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes of three: eleven parts make a tree of three levels."""
    small_tree(monkeypatch)


def test_every_job_closes_exactly_as_it_ended() -> None:
    """Whatever crashes, is lost, repeated or reordered: never miscounted, closed early or twice, hung."""
    machine = type("Machine", (JobsMachine,), {"make_client": staticmethod(lambda: (FakeDynamoDB(), "jobs"))})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )
