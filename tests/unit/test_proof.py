"""What a redrive compares before it believes a dead letter."""

import json
from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.deadletters.letter import DeadLetter
from pipeline.deadletters.proof import Proof, body_of
from pipeline.deadletters.reading import newest_errors, read_error
from pipeline.errors import ConfigurationError
from pipeline.jobs import Ref
from pipeline.kafka import ReceivedRecord
from pipeline.wire import identity
from pipeline.wire.failure import ErrorEvent
from tests.builders import pipeline_header, settings, task_body

TASK = identity.task_id("s", "e", "strict", None)
BODY = task_body({"id": TASK, "task": "strict", "pipeline": pipeline_header()})
FORGED_BODY = BODY.replace("[[]", "[[666]")
EVENT = ErrorEvent(
    kind="task",
    service="s",
    job_id="j",
    stage="strict",
    task_id=TASK,
    error="E",
    reason="why",
    failed_at=100.0,
    generation=1,
    queue="a.fifo",
    group_id=TASK,
    data=BODY,
)


class Tasks:
    """What a job has recorded of its failures."""

    def __init__(self, recorded: tuple[str, int] | None) -> None:
        self.recorded = recorded

    def digests(self, refs: Iterable[Ref]) -> dict[Ref, tuple[str, int]]:
        return {ref: self.recorded for ref in refs if self.recorded}


def registry() -> Registry:
    made = Registry()

    @stage(consumes="letters", queue="slow.fifo", registry=made)
    def strict(number: int) -> None: ...

    return made


def proof(recorded: tuple[str, int] | None = None) -> Proof:
    store: Any = SimpleNamespace(tasks=Tasks(recorded))
    return Proof(settings(), registry(), store)


def record(event: ErrorEvent, offset: int = 0) -> ReceivedRecord:
    return ReceivedRecord(
        topic="s-errors",
        partition=0,
        offset=offset,
        timestamp_ms=1,
        key=b"k",
        value=event.encode(),
        headers=(),
    )


def letter(event: ErrorEvent) -> DeadLetter:
    read = read_error("s", record(event))
    assert read is not None
    return read


def test_the_failure_that_the_job_recorded_is_proved() -> None:
    """Read from the topic, it has the digest that its worker recorded."""
    assert proof((EVENT.digest(BODY), 1)).unproved([letter(EVENT)]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"data": FORGED_BODY},
        {"queue": "other-tenant.fifo"},
        {"group_id": "another's"},
        {"generation": 0},
        {"generation": 2},
    ],
)
def test_a_made_up_failure_is_not_proved(changes: dict[str, Any]) -> None:
    """Other data, queue, group or generation, though ids, job and moment are those of a true failure."""
    forged = letter(replace(EVENT, **changes))
    assert proof((EVENT.digest(BODY), 1)).unproved([forged]) == [forged]


@pytest.mark.parametrize("recorded", [None, ("", 1)])
def test_without_a_record_nothing_is_proved(recorded: tuple[str, int] | None) -> None:
    """Also where a version before digests recorded the failure."""
    assert proof(recorded).unproved([letter(EVENT)]) == [letter(EVENT)]


def test_a_made_up_failure_hides_no_true_one() -> None:
    """Of one task a later event with other data is listed beside the true one, not instead of it."""
    forged = replace(EVENT, data=FORGED_BODY, failed_at=200.0)
    again = replace(EVENT, generation=2, failed_at=150.0)
    records = [record(each, offset) for offset, each in enumerate((EVENT, forged, again))]
    assert newest_errors("s", records) == {"errors:0:1", "errors:0:2"}


@pytest.mark.parametrize("name", ["a.fifo", "slow.fifo"])
def test_queues_of_stages_are_the_services(name: str) -> None:
    """Without a question to SQS."""
    with patch("pipeline.deadletters.proof.check_added_queue", side_effect=AssertionError):
        assert proof().queue_fault(name) == ""


@pytest.mark.parametrize("name", ["", "standard", "../2/other.fifo", "http://x/1/a.fifo", "x" * 200])
def test_what_is_no_name_of_a_queue_is_refused(name: str) -> None:
    """A name becomes a part of a URL, so SQS is not even asked."""
    with patch("pipeline.deadletters.proof.check_added_queue", side_effect=AssertionError):
        assert "no FIFO queue" in proof().queue_fault(name)


def test_another_queue_must_send_its_dead_letters_here() -> None:
    """The check is that of a worker that shall take from it; SQS is asked once."""
    fault = ConfigurationError("SQS queue other-tenant.fifo has no RedrivePolicy")
    with patch("pipeline.deadletters.proof.check_added_queue", side_effect=fault) as check:
        mine = proof()
        for _ in range(2):
            assert "none of this service" in mine.queue_fault("other-tenant.fifo")
        assert check.call_count == 1
    with patch("pipeline.deadletters.proof.check_added_queue"):
        assert proof().queue_fault("plain.fifo") == ""


def test_the_digest_is_of_the_message_as_it_was() -> None:
    """The errors topic has it byte for byte."""
    assert body_of(letter(EVENT)) == BODY
    assert json.loads(body_of(letter(EVENT)))["headers"]["id"] == TASK
