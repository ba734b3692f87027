"""A task that ends without a run is shown by Flower all the same."""

from typing import Any

from pipeline.sqs import ReceivedMessage
from pipeline.telemetry import metrics
from pipeline.transport.lease import Lease
from pipeline.worker.counting import count
from pipeline.worker.outcome import Returned
from pipeline.worker.unrun import Unrun
from pipeline.worker.work import Work


def lease(headers: dict[str, Any]) -> Lease:
    message = ReceivedMessage(
        message_id="m",
        receipt_handle="h",
        body="",
        group_id="g",
        deduplication_id="d",
        receive_count=9,
        sent_at=0,
        attributes={},
        requested_at=0,
    )
    return Lease(message=message, queue="q.fifo", payload={"headers": headers} if headers else {}, deadline=0)


def test_its_end_is_told_with_its_name_and_arguments() -> None:
    """Flower may never have heard of it: a worker died before it could tell."""
    told: list[tuple[str, dict[str, Any]]] = []
    unrun = Unrun(
        lease({"id": "t", "task": "extract", "argsrepr": "(1,)", "kwargsrepr": "{'job_id': 'j'}"}),
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
    Unrun(lease({}), lambda kind, **_: told.append(kind)).send_event("task-failed")
    Unrun(lease({"id": "t", "task": "extract"}), None).send_event("task-failed")
    assert told == []
    assert Unrun(lease({}), None).name == "unknown"


def test_a_name_that_no_code_defines_is_no_label() -> None:
    """Whoever may send messages could otherwise make a series of each."""
    made_up = lease({"id": "t", "task": "made-up"})
    count(Work(lease=made_up, outcome=Returned(), request=Unrun(made_up, None, known=False)))
    assert b"made-up" not in metrics.exposition()
