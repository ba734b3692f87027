"""A task that ends without a run is shown by Flower all the same."""

from typing import Any

from pipeline.telemetry import metrics
from pipeline.transport.lease import Lease
from pipeline.worker.child.outcome import Returned
from pipeline.worker.sample import Sample
from pipeline.worker.settle.taskevents import EventSender, SendEvent
from pipeline.worker.settle.work import Work, count
from pipeline.worker.taskcounts import TaskCounts
from tests.builders import lease


def sample_of(one_in: int) -> Sample:
    """Return a sample of one job in so many."""
    sample = Sample(100)
    sample.one_in = one_in
    return sample


def sender(of: Lease, send: SendEvent | None, *, known: bool = True, one_in: int = 1) -> EventSender:
    """Return what sends the events of a message that ends without a run."""
    return EventSender(of, send, sample_of(one_in), TaskCounts(), known=known)


def test_its_end_is_told_with_its_name_and_arguments() -> None:
    """Flower may never have heard of it: a worker died before it could tell."""
    told: list[tuple[str, dict[str, Any]]] = []
    unrun = sender(
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
    sender(lease(body="no task"), lambda kind, **_: told.append(kind)).send_event("task-failed")
    sender(lease(headers={"id": "t", "task": "extract"}), None).send_event("task-failed")
    assert told == []
    assert sender(lease(body="no task"), None).name == "unknown"


def test_a_name_that_no_code_defines_is_no_label() -> None:
    """Whoever may send messages could otherwise make a series of each."""
    made_up = lease(headers={"id": "t", "task": "made-up"})
    count(Work(lease=made_up, outcome=Returned(), request=sender(made_up, None, known=False)))
    assert b"made-up" not in metrics.exposition()


def test_of_a_job_outside_the_sample_only_failures_are_told() -> None:
    """A dead letter is shown at any rate; that a task was done before is shown like its run."""
    told: list[str] = []
    outside = next(id for id in map(str, range(100)) if sample_of(2).weight(id) == 0)
    unrun = sender(
        lease(headers={"id": outside, "task": "extract"}), lambda kind, **_: told.append(kind), one_in=2
    )
    unrun.send_event("task-succeeded")
    unrun.send_event("task-failed", exception="AttemptsUsedUp")
    assert told == ["task-failed"]


def test_the_end_of_a_task_that_failed_before_is_told() -> None:
    """Its retry was told: Flower would show for ever that it is to be tried again."""
    told: list[str] = []
    outside = next(id for id in map(str, range(100)) if sample_of(2).weight(id) == 0)
    failed_before = lease(headers={"id": outside, "task": "extract"})
    failed_before.attempts = 1
    sender(failed_before, lambda kind, **_: told.append(kind), one_in=2).send_event("task-succeeded")
    assert told == ["task-succeeded"]


def test_a_dead_letter_is_counted_if_the_code_defines_its_task() -> None:
    """Whoever may send messages could otherwise fill the counters with names."""
    for known, counted in ((True, [0, 1, 0]), (False, None)):
        unrun = sender(lease(headers={"id": "t", "task": "extract"}), None, known=known)
        unrun.send_event("task-failed", exception="AttemptsUsedUp")
        counts = {name: list(count) for name, count in unrun._counts.fields([])["tasks"].items()}
        assert counts.get("extract") == counted
