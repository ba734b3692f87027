"""A task that ends without a run is shown by Flower all the same."""

from typing import Any

from pipeline.telemetry import metrics
from pipeline.worker.child.outcome import Returned
from pipeline.worker.settle.taskevents import EventSender
from pipeline.worker.settle.work import Work, count
from tests.builders import lease


def test_its_end_is_told_with_its_name_and_arguments() -> None:
    """Flower may never have heard of it: a worker died before it could tell."""
    told: list[tuple[str, dict[str, Any]]] = []
    unrun = EventSender(
        lease(headers={"id": "t", "task": "extract", "argsrepr": "(1,)", "kwargsrepr": "{'job_id': 'j'}"}),
        lambda kind, **fields: told.append((kind, fields)),
    )
    unrun.send_event("task-failed", exception="AttemptsUsedUp")
    ((kind, fields),) = told
    assert kind == "task-failed"
    assert (fields["uuid"], fields["name"], fields["args"]) == ("t", "extract", "(1,)")
    assert fields["kwargs"] == "{'job_id': 'j'}"
    assert fields["exception"] == "AttemptsUsedUp"
    assert unrun.name == "extract"


def test_what_is_no_task_or_has_nobody_to_tell_is_not_told() -> None:
    """Garbage on the queue has no id; between two connections there is no dispatcher."""
    told: list[str] = []
    EventSender(lease(body="no task"), lambda kind, **_: told.append(kind)).send_event("task-failed")
    EventSender(lease(headers={"id": "t", "task": "extract"}), None).send_event("task-failed")
    assert told == []
    assert EventSender(lease(body="no task"), None).name == "unknown"


def test_a_name_that_no_code_defines_is_no_label() -> None:
    """Whoever may send messages could otherwise make a series of each."""
    made_up = lease(headers={"id": "t", "task": "made-up"})
    count(Work(lease=made_up, outcome=Returned(), request=EventSender(made_up, None, known=False)))
    assert b"made-up" not in metrics.exposition()
