"""The ids: the same for the same input, for ever, and different for different input."""

import json
import re
import string
import uuid

from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import identity

TASK = identity.task_id("/orders", "e-1", "extract", None)


def test_ids_are_pinned() -> None:
    """An id that changed would make every task that waits in a queue run again."""
    assert TASK == "6c1d311b-fff0-5a2a-b6e6-b6020e01424c"
    assert identity.task_id("/orders", "e-1", "analyse", 3) == "bbf87b2a-15eb-5003-a4c7-25c65f47b185"
    assert identity.task_id("/orders", "e-1", "analyse", "gather") == "fd5fcbcc-8b17-5292-9895-b2df8c094e5f"
    assert identity.emitted_event_id(TASK) == "0d893686-980e-51f8-9a49-8f70c0a6a7ea"
    assert identity.job_id("/orders", "e-1") == "b2303488-3413-50e7-ba24-472d5d40ff69"
    assert identity.closed_event_id("j-1", "failed", 0) == "6f906058-498d-59c7-b6ae-68df9e9d7453"
    assert identity.error_event_id(TASK, "m-1") == "0017247e-a4af-5406-9a0f-76b8ef40d497"
    assert (
        identity.plain_event_id("orders", 2, 40, 1_700_000_000_000) == "7f484b85-db09-5325-b0ec-aa49e90ba7fa"
    )
    assert identity.publish_deduplication_id(TASK, 1, 0, None, 0) == "ffa9677a-0280-5257-a32c-71c5dcfb5567"


@given(st.tuples(*[st.text()] * 3), st.tuples(*[st.text()] * 3))
def test_different_inputs_give_different_tasks(one: tuple[str, str, str], two: tuple[str, str, str]) -> None:
    """No two of source, event and stage are joined so that another three look the same."""
    assert (identity.task_id(*one, None) == identity.task_id(*two, None)) == (one == two)


@given(st.text(), st.text(), st.text(), st.integers())
def test_an_id_is_a_version_5_uuid(source: str, event_id: str, stage: str, part: int) -> None:
    """The namespace is enough to compute it."""
    array = json.dumps([source, event_id, stage, part], separators=(",", ":"))
    assert identity.task_id(source, event_id, stage, part) == str(uuid.uuid5(identity.NAMESPACE, array))


def test_parts_of_one_event_are_told_apart() -> None:
    """The event's own task, each part, and the gather are tasks of their own."""
    ids = {identity.task_id("s", "e", "stage", part) for part in (None, "gather", *range(1000))}
    assert len(ids) == 1002


def test_concatenation_does_not_collide() -> None:
    """Moving a character from one element to the next gives another id."""
    assert identity.task_id("ab", "c", "s", None) != identity.task_id("a", "bc", "s", None)


def test_every_redrive_announces_its_own_end() -> None:
    """A job that fails again after a redrive gives another event than the first time."""
    assert identity.closed_event_id("j", "failed", 0) != identity.closed_event_id("j", "failed", 1)


def test_retry_of_a_plain_task_is_not_a_duplicate() -> None:
    """Each retry, replacement, delay and redrive of one task id is a message of its own."""
    variants = [(0, 0, None, 0), (1, 0, None, 0), (0, 1, None, 0), (0, 0, "2030-01-01", 0), (0, 0, None, 1)]
    assert len({identity.publish_deduplication_id("t", *variant) for variant in variants}) == 5


def test_unordered_tasks_have_a_group_each() -> None:
    """A task whose order does not count waits for no other."""
    assert identity.group_id("t-1", "customer 7", ordered=False) == "t-1"


def test_ordered_tasks_share_the_group_of_their_entity() -> None:
    """An entity id that SQS takes is the group itself, so that a person finds it in the console."""
    entity = string.punctuation + "aZ0"
    assert identity.group_id("t-1", entity, ordered=True) == entity


@given(st.text(st.characters()))
def test_every_entity_gives_a_group_that_sqs_takes(entity: str) -> None:
    """Whatever an entity is called, SQS accepts its group."""
    assert re.fullmatch(r"[!-~]{1,128}", identity.group_id("t", entity, ordered=True))


def test_long_entities_are_told_apart() -> None:
    """Two long entity ids that begin alike stay two groups."""
    assert identity.group_id("t", "x" * 200 + "a", True) != identity.group_id("t", "x" * 200 + "b", True)
