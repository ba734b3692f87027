"""The schedules of the property test on DynamoDB Local, an independent implementation of conditions."""

import itertools

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from pipeline.jobs import JobStore
from pipeline.jobs.dynamodb import dynamodb_client
from pipeline.services.environment import Services
from tests.conftest import MakeSettings
from tests.jobs_machine import JobsMachine, small_tree


def test_every_job_closes_exactly_as_it_ended_on_a_real_server(
    local_services: Services, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The invariants also hold with another project's implementation of conditions and sets."""
    small_tree(monkeypatch)
    table = make_settings(local_services)
    JobStore(table).schema.provision()
    names = itertools.count()

    class Machine(JobsMachine):
        # One table, and a service of its own for each example: making a table takes longer than an example.
        make_client = staticmethod(lambda: (dynamodb_client(), table.dynamodb_table))
        make_service = staticmethod(lambda: f"example-{next(names)}")

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            derandomize=True,
            database=None,
        ),
    )
