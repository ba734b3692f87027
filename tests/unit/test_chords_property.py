"""Any schedule of crashes, lost replies, copies, failures and redrives of a chord, on an in-memory wire."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.chords_machine import ChordMachine
from tests.fakes.dynamodb import FakeDynamoDB


def test_a_chord_closes_once_with_all_its_results() -> None:
    """Whatever crashes, is lost, repeated or reordered: never early, never two outcomes, never hung."""
    machine = type("Machine", (ChordMachine,), {"make_client": staticmethod(lambda: (FakeDynamoDB(), "t"))})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )
