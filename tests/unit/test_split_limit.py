"""MAX_PARTS: one small event makes no more tasks than the service allows."""

from collections.abc import Iterable, Iterator

import pytest

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.errors import PermanentError
from pipeline.infra import startchecks
from pipeline.jobs import JobStore, SplitRef
from pipeline.jobs.table import Table
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB
from tests.loglines import log_lines

SPLIT = SplitRef(job_id="j", stage="a", split_id="s")
LIMIT = 600


@pytest.fixture
def store() -> JobStore:
    wire = FakeDynamoDB()
    settings = builders.settings(service_name="test", max_parts=LIMIT)
    return JobStore(settings, table=Table("jobs", lambda: wire))  # type: ignore[arg-type,return-value]


def test_a_split_of_as_many_parts_as_allowed_is_sealed(store: JobStore) -> None:
    """The limit itself is allowed."""
    assert store.splits.seal(SPLIT, "{}", "{}", map(str, range(LIMIT))).total == LIMIT


def test_a_split_over_the_limit_fails_for_good_and_sends_nothing(store: JobStore) -> None:
    """The failure names the setting, no part follows it, and the split asks its author for no more parts."""
    asked: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            asked.append(len(asked))
            yield "{}"

    with pytest.raises(PermanentError, match=r"stage a makes more than MAX_PARTS=600 parts.*set MAX_PARTS"):
        store.splits.seal(SPLIT, "{}", "{}", endless())
    assert store.splits.sealed(SPLIT) is None
    assert len(asked) == LIMIT + 1


def test_the_limit_is_told_at_start_where_there_is_a_split() -> None:
    """With the stages that it is about; a service without a split is told nothing."""
    registry = Registry()
    settings = builders.settings(max_parts=LIMIT)

    @stage(consumes="a", registry=registry)
    def whole(data: int) -> None: ...

    with log_lines(startchecks) as lines:
        startchecks.report_max_parts(settings, registry)
    assert lines == []

    @stage(consumes="b", registry=registry)
    def parts(data: int) -> int:
        return data

    @parts.split
    def numbers(data: int) -> Iterator[int]:
        yield data

    @parts.gather
    def total(data: int, results: Iterable[int]) -> None: ...

    with log_lines(startchecks) as lines:
        startchecks.report_max_parts(settings, registry)
    assert lines == [{"event": "splits.bounded", "level": "info", "max_parts": LIMIT, "stages": ["parts"]}]
