"""Entities within a job: what a stage emits and what it splits may be keyed by the author's function."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.author.stages import Emission, NewPart, Stage
from pipeline.errors import PermanentError, StageDefinitionError
from pipeline.jobs import JobStore, SealedPart, SplitRef
from pipeline.jobs.table import Table
from pipeline.wire import identity, taskmessage
from pipeline.wire.taskmessage import TaskHeader, sealed_header
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

SPLIT = SplitRef(job_id="j", stage="s", split_id="id")


def single(entity: Callable[[Any], Any]) -> Stage[int, list[str] | None]:
    """A stage that names as many things as it is told, or none."""

    @stage(consumes="counts", emits="names", entity=entity, registry=Registry())
    def name(count: int) -> list[str] | None:
        return [f"n-{number}" for number in range(count)] if count else None

    return name


def divided(
    of_part: Callable[[str], Any] = str.upper, of_result: Callable[[Any], str] | None = None
) -> Stage[str, int]:
    """A stage that is divided by words, in order of each word's entity."""

    @stage(consumes="texts", emits="lengths", ordered=True, entity=of_result, registry=Registry())
    def measure(word: str) -> int:
        return len(word)

    @measure.split(entity=of_part)
    def words(text: str) -> Iterator[str]:
        yield from text.split()

    @measure.gather
    def longest(text: str, lengths: Iterable[int]) -> Iterable[int]:
        return (length for length in lengths)

    measure.check()
    return measure


def test_what_is_emitted_has_the_entity_of_its_function() -> None:
    """The function sees the value that is emitted; a path that ends has no entity."""
    assert single(lambda names: names[0]).emission("2") == Emission(data='["n-0","n-1"]', entity="n-0")
    assert single(lambda names: names[0]).emission("0") == Emission(data=None, entity=None)


def test_a_gather_is_keyed_as_a_run_is() -> None:
    """Also where it returns an iterator, which is read for the event and again for the entity."""
    made = divided(of_result=lambda lengths: f"longest-{max(lengths)}")
    assert made.emission_of_gather('"a bcd"', ["1", "3"]) == Emission(data="[1,3]", entity="longest-3")
    assert divided().emission_of_gather('"a bcd"', ["1", "3"]).entity is None


def test_each_part_has_its_own_entity() -> None:
    """The split itself keeps that of the event."""
    assert list(divided().parts('"a b a"')) == [NewPart('"a"', "A"), NewPart('"b"', "B"), NewPart('"a"', "A")]


@pytest.mark.parametrize(
    ("entity", "reason"),
    [
        (7, "is 7, and no text"),
        (None, "is None, and no text"),
        ("", "is empty"),
        ("x" * 1_025, "1,025 characters and may have 1,024"),
        ("a\nb", "printable"),
        ("\udcff", "printable"),
    ],
)
def test_what_cannot_be_a_key_fails_the_task_for_good(entity: Any, reason: str) -> None:
    """A pure function gives the same again, so there is no retry; the reason names the function."""
    with pytest.raises(PermanentError, match=f"name .*what its entity= gave is none: .*{reason}"):
        single(lambda _: entity).emission("1")
    with pytest.raises(PermanentError, match=f"words .*what its entity= gave is none: .*{reason}"):
        list(divided(of_part=lambda _: entity).parts('"a"'))


def test_what_the_function_raises_is_the_tasks_failure() -> None:
    """As what the stage's own function raises."""
    with pytest.raises(IndexError):
        single(lambda names: names[7]).emission("1")


def test_a_stage_that_emits_nothing_has_nothing_to_key() -> None:
    """It is refused at import."""
    with pytest.raises(StageDefinitionError, match=r"emits nothing\. Add emits="):

        @stage(consumes="counts", entity=str, registry=Registry())
        def end(count: int) -> None: ...


def header() -> TaskHeader:
    return TaskHeader(
        job_id="j",
        stage="measure",
        role="split",
        event_source="/shop/submit",
        event_id="e",
        entity_id="file-1",
        topic="texts",
        partition=0,
        offset=0,
        submitted_at=1.0,
    )


def test_a_part_is_in_its_entitys_group_and_the_gather_in_the_events() -> None:
    """The group of an entity is the same in every job; ids do not depend on it."""
    measure, facts = divided(), header()
    plain, keyed = (taskmessage.for_part(measure, facts, 1, 3, '"b"', {}, entity=e) for e in (None, "ada"))
    assert (plain.group_id, keyed.group_id) == ("file-1", identity.group_id("any", "ada", True))
    assert (plain.task_id, plain.deduplication_id) == (keyed.task_id, keyed.deduplication_id)
    part = taskmessage.read_header(keyed.headers)
    assert part is not None
    assert (part.entity_id, part.split_id) == ("ada", facts.split_id)
    gather = taskmessage.for_gather(measure, sealed_header(facts, {}), 3, '"a b a"')
    assert gather.group_id == "file-1"
    assert taskmessage.for_pages(measure, facts, 8, {}).group_id == "file-1"


@pytest.mark.parametrize("total", [2, 5_000])
def test_sealed_parts_keep_their_entities(total: int) -> None:
    """In the seal and in pages; a split whose parts have none stores none."""
    fake: Any = FakeDynamoDB()
    store = JobStore(builders.settings(), table=Table("jobs", lambda: fake))
    made = [NewPart(str(number), f"customer-{number % 3}") for number in range(total)]
    sealed = store.splits.seal(SPLIT, "{}", "1", made)
    found = [*sealed.inline_parts]
    for page in range(sealed.pages):
        found += store.splits.page(sealed, page)
    assert found == [SealedPart(at, part.data, part.entity) for at, part in enumerate(made)]
    assert store.splits.sealed(SPLIT) == sealed
    assert (sealed.keyed, bool(sealed.pages)) == (True, total > 2)
    plain = SplitRef(job_id="other", stage="s", split_id="plain")
    assert not store.splits.seal(plain, "{}", "1", [part.data for part in made]).keyed
