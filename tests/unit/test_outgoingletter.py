"""Dead letters: everything that a person needs is in them, and they always fit."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.author.stages import Stage
from pipeline.jobs import PartRef, SplitRef, StageRef
from pipeline.sqs import MAX_MESSAGE_BYTES, ReceivedMessage
from pipeline.transport.lease import Lease
from pipeline.wire import taskmessage
from pipeline.wire.events import Coordinates, Event
from pipeline.wire.failure import Failure, origin_of
from pipeline.wire.redaction import redact_event
from pipeline.wire.taskmessage import TaskHeader, first_at_of, generation_of
from pipeline.worker.child.outcome import MESSAGE_LIMIT
from pipeline.worker.runtime import refusal
from pipeline.worker.settle.outgoingletter import OutgoingLetter, letter_of
from pipeline.worker.settle.work import Work
from tests.builders import lease, received_message, settings

EVENT = Event(
    id="e-1",
    source="/orders",
    type="orders",
    time=datetime(2026, 1, 2, tzinfo=UTC),
    entity_id="ada",
    data=b"7",
    coordinates=Coordinates(topic="orders", partition=2, offset=40, timestamp_ms=1),
)


def counting() -> Stage[int, int]:
    @stage(consumes="orders", registry=Registry())
    def count(number: int) -> int:
        return number

    return count


def outgoing(message: ReceivedMessage | None = None, **changes: Any) -> OutgoingLetter:
    """The third part of five, after four attempts."""
    first = TaskHeader.read(taskmessage.for_event(counting(), EVENT, "j-1", 1.5).headers)
    assert first is not None
    part = taskmessage.for_part(counting(), first, 2, 5, "7", {})
    message = message or received_message(
        body=part.to_sqs()["body"],
        group_id=part.group_id,
        deduplication_id=part.deduplication_id,
        receive_count=4,
        sent_at=100.0,
    )
    header = changes.pop("header", TaskHeader.read(part.headers))
    headers = changes.pop("headers", part.headers)
    facts = origin_of(header) | {
        "task_id": part.task_id,
        "attempts": 4,
        "error": "builtins.ValueError",
        "reason": "no\x00number",
        "traceback": "x" * 9_000 + "the cause",
        "worker": "celery@one",
        "generation": generation_of(message.attributes),
        "first_at": first_at_of(message.attributes) or message.sent_at,
        "failed_at": 200.0,
        "queue": "tasks.fifo",
        "group_id": message.group_id,
    }
    return OutgoingLetter(
        message=message, failure=Failure(**(facts | changes)), header=header, headers=headers
    )


def test_a_letter_says_all_that_is_known() -> None:
    """Why, how often, where and when; the body has the data, the headers, the job and the coordinates."""
    letter = outgoing().to_sqs()
    assert letter.body == outgoing().message.body
    assert letter.attributes == {
        "reason": "no\N{REPLACEMENT CHARACTER}number",
        "error": "builtins.ValueError",
        "traceback": "x" * 3_991 + "the cause",
        "attempts": "4",
        "worker": "celery@one",
        "source_queue": "tasks.fifo",
        "group": outgoing().message.group_id,
        "first_at": "100.000",
        "failed_at": "200.000",
    }


def test_a_letter_is_a_group_of_its_own() -> None:
    """Two letters of one entity can both be looked at, and a second letter of one task is not dropped."""
    letter = outgoing().to_sqs()
    assert (letter.group_id, letter.deduplication_id) == ("dead-m-1", "m-1")


def test_a_task_that_was_redriven_remembers() -> None:
    """Its generation goes on counting, and it keeps the moment its first message was sent."""
    message = replace(outgoing().message, attributes={"generation": "2", "first_at": "5.250"})
    again = outgoing(message=message)
    assert again.to_sqs().attributes["generation"] == "2"
    assert again.to_sqs().attributes["first_at"] == "5.250"
    failed = again.failed_task()
    assert failed is not None
    assert failed.generation == 2
    assert isinstance(failed.ref, PartRef)


@pytest.mark.parametrize(("left", "keys"), [(2_048, True), (0, False)])
def test_a_letter_always_fits(left: int, keys: bool) -> None:
    """A body with the room that every task leaves gets its reason; one without room still goes."""
    message = replace(
        outgoing().message, body="x" * (MAX_MESSAGE_BYTES - left), group_id="g" * 128, attributes={}
    )
    letter = outgoing(message=message, reason="é" * 600, error="E" * 600, worker="w" * 600).to_sqs()
    assert letter.size <= MAX_MESSAGE_BYTES
    assert ("reason" in letter.attributes) is keys
    assert letter.group_id == "dead-m-1"


def test_what_is_no_task_has_no_job() -> None:
    """It is kept all the same."""
    stray = outgoing(header=None, task_id="m-1", headers={})
    assert (stray.failed_task(), stray.failure.part) == (None, None)
    assert stray.to_sqs().attributes["reason"]


def test_a_job_is_told_which_task_of_its_stage_failed() -> None:
    """By its header: the run or the split, each page task, the gather, and not only the stage."""
    stage = counting()
    run = TaskHeader.read(taskmessage.for_event(stage, EVENT, "j-1", 1.5).headers)
    assert run is not None
    split = run.model_copy(update={"role": "split"})
    page = TaskHeader.read(taskmessage.for_pages(stage, split, 8, {}).headers)
    gather = TaskHeader.read(taskmessage.for_gather(stage, split.model_dump_json(), 3, "7").headers)
    assert gather is not None
    told = [outgoing(header=each).failed_task() for each in (run, split, page, gather)]
    of_split = SplitRef(job_id="j-1", stage="count", split_id=split.split_id)
    assert [each.ref for each in told if each] == [
        StageRef(job_id="j-1", stage="count", task_id=run.task_id),
        of_split,
        replace(of_split, page=8),
        StageRef(job_id="j-1", stage="count", gather=True, task_id=gather.task_id),
    ]


SLOW = "-eyJ" * 225_000


@pytest.mark.parametrize(
    "sent",
    [
        {"body": SLOW},
        {"body": "[" * 500_000},
        {"headers": {"pipeline": SLOW}},
        {"headers": {"pipeline": {SLOW: SLOW[:9]}}},
        {"headers": {"kwargsrepr": SLOW, "pipeline": 1}},
        {"headers": {"task": SLOW, "pipeline": 1}},
        {"headers": {f"password{number}": number for number in range(30_000)} | {"pipeline": 1}},
    ],
    ids=["text", "deep", "header", "name", "arguments", "task", "many headers"],
)
def test_no_message_takes_long(sent: dict[str, Any]) -> None:
    """A message of nearly a megabyte that was made to be slow is a dead letter within a second."""
    began = time.process_time()
    headers = sent.get("headers")
    held = (
        Lease.of(received_message(body=sent["body"]), "q", 2e9) if "body" in sent else lease(headers=headers)
    )
    assert held.problem is not None
    letter = letter_of(Work(lease=held, outcome=refusal(held)), "w")
    letter.to_sqs()
    letter.error_event(settings()).encode()
    redact_event(None, "", {"event": "message.invalid", "problem": held.problem})
    assert time.process_time() - began < 2
    assert len(letter.failure.reason) <= MESSAGE_LIMIT


def test_the_reason_of_a_refused_message_tells_no_secret() -> None:
    """It may quote what the message holds, as a service did that refused it."""
    held = lease()
    held.problem = "the key password=hunter2 is too long"
    assert refusal(held).message == "the key password=[redacted] is too long"
