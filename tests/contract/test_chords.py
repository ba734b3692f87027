"""The chords' records: the same answers on the embedded and on the local services."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from pipeline.errors import ResultTooLargeError
from pipeline.jobs import ChordPart, ChordRecords, Decision, JobStore, PartEnd, PartFailure
from pipeline.jobs.expressions import Item
from pipeline.services.environment import Services
from tests.conftest import MakeSettings


@pytest.fixture(name="store")
def store_fixture(services: Services, make_settings: MakeSettings) -> JobStore:
    """A store with a table of its own."""
    store = JobStore(make_settings(services))
    store.schema.provision()
    return store


@pytest.fixture(name="chords")
def chords_fixture(store: JobStore) -> ChordRecords:
    """Its records of chords."""
    return store.chords


def end(chord_id: str, index: int, *, failed: bool = False) -> PartEnd:
    """The end of a header task."""
    part = ChordPart(chord_id=chord_id, task_id=f"t{index}", index=index)
    if failed:
        return PartEnd(part=part, failure=PartFailure(task_id=f"t{index}", error="E", message="no"))
    return PartEnd(part=part, result=f'["größer", {index}]')


def test_a_header_of_thousands_is_complete_with_its_last(chords: ChordRecords) -> None:
    """Whatever is there twice, in whatever order, over several partitions."""
    chord_id, size = uuid.uuid4().hex, 2_100
    ends = [end(chord_id, index) for index in range(size)]
    chords.set_size(chord_id, size)
    for start in range(size - 100, -1, -100):
        batch = ends[start : start + 100]
        recorded = chords.record([*batch, batch[0]])
        assert recorded.errors == [None] * 101
        if start:
            assert all(chords.decide(each) is None for each in recorded.full)
    assert recorded.full == {chord_id}
    decision = chords.decide(chord_id)
    assert decision == Decision(results="[" + ",".join(f'["größer", {n}]' for n in range(size)) + "]")
    assert chords.decide(chord_id) == decision, "until it is closed"
    chords.close(chord_id, 1.0)
    assert chords.decide(chord_id) is None
    assert chords.record([ends[0]]).full == set()


def test_done_wins_over_failed_until_it_is_decided(chords: ChordRecords) -> None:
    """Then nothing changes the decision any more."""
    chord_id = uuid.uuid4().hex
    chords.set_size(chord_id, 3)
    chords.record([end(chord_id, 0, failed=True), end(chord_id, 1, failed=True)])
    chords.record([end(chord_id, 0), end(chord_id, 0, failed=True)])
    assert chords.record([end(chord_id, 2)]).full == {chord_id}
    decision = chords.decide(chord_id)
    assert decision == Decision(failure=PartFailure(task_id="t1", error="E", message="no"))
    chords.record([end(chord_id, 1)])
    assert chords.decide(chord_id) == decision


class Slow(ChordRecords):
    """Records of a process that reads the ends, and then is slow."""

    meanwhile: Callable[[], object]

    def _parts(self, chord_id: str, leaves: Sequence[int]) -> Iterator[Item]:
        read = list(super()._parts(chord_id, leaves))
        self.meanwhile()
        self.meanwhile = lambda: None
        yield from read


def test_two_that_decide_at_once_decide_the_same(store: JobStore) -> None:
    """One read a failure, the other the success that took its place."""
    chord_id, chords = uuid.uuid4().hex, store.chords
    chords.set_size(chord_id, 2)
    chords.record([end(chord_id, 0, failed=True), end(chord_id, 1)])
    decisions: list[Decision | None] = []
    slow = Slow(chords._table, chords._keys, chords._expiry, chords._payloads)

    def redriven() -> None:
        chords.record([end(chord_id, 0)])
        decisions.append(chords.decide(chord_id))

    slow.meanwhile = redriven
    decisions.append(slow.decide(chord_id))
    assert decisions[0] == decisions[1] == Decision(results='[["größer", 0],["größer", 1]]')


def test_results_are_nested_as_the_header_is(chords: ChordRecords) -> None:
    """Tasks that were added meanwhile come last."""
    chord_id = uuid.uuid4().hex
    chords.set_shape(chord_id, [["t1", "t0"], "t2"])
    chords.set_size(chord_id, 3)
    chords.add_task(chord_id, "t3")
    chords.record([replace(end(chord_id, index), result=str(index)) for index in range(3)])
    assert chords.decide(chord_id) is None
    assert chords.record([replace(end(chord_id, 3), result="3")]).full == {chord_id}
    assert chords.decide(chord_id) == Decision(results="[[1,0],2,3]")


def test_a_result_too_large_for_an_item_is_refused_alone(chords: ChordRecords) -> None:
    """Without a bucket; the others of the batch are recorded."""
    chord_id = uuid.uuid4().hex
    chords.set_size(chord_id, 1)
    large = replace(end(chord_id, 0), result='"' + "z" * 400_000 + '"')
    refused, recorded = chords.record([large, end(chord_id, 1)]).errors
    assert isinstance(refused, ResultTooLargeError)
    assert "PAYLOAD_BUCKET" in str(refused)
    assert recorded is None
