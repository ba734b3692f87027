"""The backlog: records wait for their schemas without disorder, and no end is told before them."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bridge.backlog import Backlog
from pipeline.kafka import Partition, ReceivedRecord

PARTITIONS = (0, 1, 2)


def record(partition: int, offset: int, schema: int) -> ReceivedRecord:
    """A record that needs a schema."""
    value = bytes([schema])
    return ReceivedRecord(
        topic="t", partition=partition, offset=offset, timestamp_ms=1, key=None, value=value, headers=()
    )


_NEW = st.tuples(st.sampled_from(PARTITIONS), st.integers(0, 3))

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("poll"), st.lists(_NEW, max_size=6)),
        st.tuples(st.just("know"), st.integers(0, 3)),
        st.tuples(st.just("take"), st.integers(0, 8)),
        st.tuples(st.just("drop"), st.sampled_from(PARTITIONS)),
    ),
    max_size=30,
)


class World:
    """A backlog, and what must be so."""

    def __init__(self) -> None:
        self.backlog = Backlog()
        self.known: set[int] = set()
        #: Of each partition, the offsets polled and not taken; and the next offset.
        self.open: dict[int, list[int]] = {each: [] for each in PARTITIONS}
        self.next = dict.fromkeys(PARTITIONS, 0)

    def is_ready(self, each: ReceivedRecord) -> bool:
        return (each.value or b"")[0] in self.known

    def poll(self, records: Any) -> None:
        polled = []
        for partition, schema in records:
            polled.append(record(partition, self.next[partition], schema))
            self.open[partition].append(self.next[partition])
            self.next[partition] += 1
        self.backlog.add(polled, {Partition("t", each): self.next[each] for each in PARTITIONS})

    def know(self, schema: int) -> None:
        self.known.add(schema)

    def take(self, most: int) -> None:
        for _, each in zip(range(most), self.backlog.take(self.is_ready), strict=False):
            assert self.is_ready(each)
            # The first of its partition: none is passed over.
            assert self.open[each.partition].pop(0) == each.offset
        self.check_ends()

    def drop(self, partition: int) -> None:
        self.backlog.drop([Partition("t", partition)])
        self.open[partition].clear()

    def check_ends(self) -> None:
        for partition, end in self.backlog.take_ends().items():
            assert not self.open[partition.number]
            assert end == self.next[partition.number]


@given(STEPS)
@settings(max_examples=200)
def test_records_wait_in_their_order(steps: list[tuple[str, Any]]) -> None:
    """Whatever comes and goes, each partition's records leave in order, and all of them in the end."""
    world = World()
    for name, argument in steps:
        step: Callable[[Any], None] = getattr(world, name)
        step(argument)
    world.known.update(range(4))
    world.take(10_000)
    assert all(not offsets for offsets in world.open.values())
    assert not list(world.backlog.take(world.is_ready))
    assert (len(world.backlog), len(world.backlog.waiting), world.backlog.waiting_bytes) == (0, 0, 0)


def test_the_records_of_a_topic_that_was_replaced_are_given_in_order() -> None:
    """Those that wait come before those that were polled later."""
    backlog = Backlog()
    backlog.add([record(0, 1, 1), record(0, 2, 0), record(1, 1, 0)], {})
    assert [each.partition for each in backlog.take(lambda each: each.value == b"\x00")] == [1]
    backlog.add([record(0, 3, 0)], {})
    assert set(backlog.waiting) == {Partition("t", 0)}
    assert [each.offset for each in backlog.take_of(Partition("t", 0))] == [1, 2, 3]
    assert backlog.waiting_bytes == 0
