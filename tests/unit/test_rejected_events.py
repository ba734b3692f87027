"""One read of the DLQ topic tells which jobs have an event there, whatever order its partitions come in."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.deadletters import Filter, Listing
from pipeline.deadletters import listing as listing_module
from pipeline.kafka import ReceivedRecord
from pipeline.wire import identity
from pipeline.wire.deadletter import encode_mark
from tests import builders

#: What partitions hold: events by number, and marks of an event of any partition, or of none.
events = st.integers(0, 3)
marks = st.tuples(st.integers(0, 2), st.integers(0, 9))
topics = st.lists(st.lists(st.one_of(events, marks), max_size=8), min_size=1, max_size=3)


def job_of(number: int) -> str:
    """The job that an event begins."""
    return identity.job_id("shop", f"e{number}")


def raw(partition: int, offset: int, key: bytes, value: bytes | None, headers: Any) -> ReceivedRecord:
    """A record of the topic."""
    at: Any = {"topic": "dlq", "partition": partition, "offset": offset, "timestamp_ms": 1}
    return ReceivedRecord(**at, key=key, value=value, headers=headers)


def record(partition: int, offset: int, content: int | tuple[int, int]) -> ReceivedRecord:
    """An event, or a mark."""
    if isinstance(content, int):
        headers: Any = (("ce_id", f"e{content}".encode()), ("ce_source", b"shop"))
        return raw(partition, offset, b"k", b"1", headers)
    name = "kafka:{}:{}".format(*content)
    return raw(partition, offset, name.encode(), None, encode_mark(name, "redriven"))


def found_in(records: list[ReceivedRecord], wanted: set[str]) -> set[str]:
    """Read the topic once."""
    scans: list[str] = []

    def scan(_: Any, topic: str) -> Iterator[ReceivedRecord]:
        scans.append(topic)
        yield from records

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing_module, "scan", scan)
        patch.setattr(listing_module, "sqs_client", lambda _: None)
        with Listing(builders.settings(), Filter(place="kafka")) as listing:
            found = listing.jobs_with_events(wanted)
    assert len(scans) == 1
    return found


@given(topic=topics, data=st.data())
def test_a_job_has_an_event_that_no_mark_is_about(topic: Any, data: st.DataObject) -> None:
    """A mark comes before or behind its event, if they are of two partitions."""
    queues = [
        [record(number, offset, content) for offset, content in enumerate(partition)]
        for number, partition in enumerate(topic)
    ]
    marked = {content for partition in topic for content in partition if isinstance(content, tuple)}
    expected = {
        job_of(content)
        for number, partition in enumerate(topic)
        for offset, content in enumerate(partition)
        if isinstance(content, int) and content < 2 and (number, offset) not in marked
    }
    records = []
    while any(queues):
        records.append(data.draw(st.sampled_from([queue for queue in queues if queue])).pop(0))
    assert found_in(records, {job_of(0), job_of(1)}) == expected


@pytest.mark.parametrize("name", ["kafka:0:x", "errors:0:0", "m-1", "kafka:0:0:0", "", "kafka:99999999999:1"])
def test_a_mark_of_nothing_is_passed_over(name: str) -> None:
    """Anybody may write one."""
    mark = raw(0, 0, name.encode(), None, encode_mark(name, "redriven"))
    assert found_in([mark, record(0, 1, 0)], {job_of(0)}) == {job_of(0)}
