"""What is given up on: everything a person needs is in the letter, and the letter always fits."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pipeline import taskmessage
from pipeline.events import Coordinates, Event
from pipeline.jobs import PartRef, SplitRef, StageRef
from pipeline.sqs import MAX_MESSAGE_BYTES, ReceivedMessage
from pipeline.stages import Registry, Stage, stage
from pipeline.taskmessage import TaskHeader
from pipeline.worker.givenup import GivenUp

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


def given_up(**changes: object) -> GivenUp:
    """The third part of five, after four attempts."""
    first = TaskHeader.read(taskmessage.for_event(counting(), EVENT, "j-1", 1.5).headers)
    assert first is not None
    part = taskmessage.for_part(counting(), first, 2, 5, "7", {})
    message = ReceivedMessage(
        message_id="m-1",
        receipt_handle="h",
        body=part.to_sqs()["body"],
        group_id=part.group_id,
        deduplication_id=part.deduplication_id,
        receive_count=4,
        sent_at=100.0,
        attributes={},
        requested_at=0.0,
    )
    facts = {
        "message": message,
        "queue": "tasks.fifo",
        "task_id": part.task_id,
        "header": TaskHeader.read(part.headers),
        "headers": part.headers,
        "attempts": 4,
        "error": "builtins.ValueError",
        "reason": "no\x00number",
        "traceback": "x" * 9_000 + "the cause",
        "worker": "celery@one",
        "failed_at": 200.0,
    }
    return GivenUp(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_letter_says_all_that_is_known() -> None:
    """Why, how often, where and when; the body has the data, the headers, the job and the coordinates."""
    letter = given_up().letter()
    assert letter.body == given_up().message.body
    assert letter.attributes == {
        "reason": "no\N{REPLACEMENT CHARACTER}number",
        "error": "builtins.ValueError",
        "traceback": "x" * 3_991 + "the cause",
        "attempts": "4",
        "worker": "celery@one",
        "source_queue": "tasks.fifo",
        "group": given_up().message.group_id,
        "first_at": "100.000",
        "failed_at": "200.000",
    }


def test_a_letter_is_a_group_of_its_own() -> None:
    """Two letters of one entity can both be looked at, and a second letter of one task is not dropped."""
    letter = given_up().letter()
    assert (letter.group_id, letter.deduplication_id) == ("dead-m-1", "m-1")


def test_a_task_that_was_redriven_remembers() -> None:
    """Its generation goes on counting, and it keeps the moment its first message was sent."""
    message = replace(given_up().message, attributes={"generation": "2", "first_at": "5.250"})
    again = given_up(message=message)
    assert again.letter().attributes["generation"] == "2"
    assert again.letter().attributes["first_at"] == "5.250"
    failed = again.failed()
    assert failed is not None
    assert failed.generation == 2
    assert isinstance(failed.ref, PartRef)


@pytest.mark.parametrize(("left", "keys"), [(2_048, True), (0, False)])
def test_a_letter_always_fits(left: int, keys: bool) -> None:
    """A body with the room that every task leaves gets its reason; one without room still goes."""
    message = replace(
        given_up().message, body="x" * (MAX_MESSAGE_BYTES - left), group_id="g" * 128, attributes={}
    )
    letter = given_up(message=message, reason="é" * 600, error="E" * 600, worker="w" * 600).letter()
    assert letter.size <= MAX_MESSAGE_BYTES
    assert ("reason" in letter.attributes) is keys
    assert letter.group_id == "dead-m-1"


def test_what_is_no_task_has_no_job() -> None:
    """It is kept all the same."""
    stray = given_up(header=None, task_id="m-1", headers={})
    assert (stray.failed(), stray.part) == (None, None)
    assert stray.letter().attributes["reason"]


def test_a_job_is_told_which_task_of_its_stage_failed() -> None:
    """By its header: the run or the split, each page task, the gather, and not only the stage."""
    stage = counting()
    run = TaskHeader.read(taskmessage.for_event(stage, EVENT, "j-1", 1.5).headers)
    assert run is not None
    split = run.model_copy(update={"role": "split"})
    page = TaskHeader.read(taskmessage.for_pages(stage, split, 8, {}).headers)
    gather = TaskHeader.read(taskmessage.for_gather(stage, split.model_dump_json(), 3, "7").headers)
    told = [given_up(header=each).failed() for each in (run, split, page, gather)]
    of_split = SplitRef(job_id="j-1", stage="count", split_id=split.split_id)
    assert [each.ref for each in told if each] == [
        StageRef(job_id="j-1", stage="count"),
        of_split,
        replace(of_split, page=8),
        StageRef(job_id="j-1", stage="count", gather=True),
    ]
