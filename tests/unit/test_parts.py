"""Pages of a split: each is sent once, by one page task, and only some at a time."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.jobs import JobStore, SealedSplit, SplitRef
from pipeline.jobs.table import Table
from pipeline.worker.settle.parts import (
    PARTS,
    page_tasks,
    pages_to_send,
)
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

SPLIT = SplitRef(job_id="j", stage="s", split_id="id")


def sealed(total: int, pages: int, window: int = 2) -> SealedSplit:
    return SealedSplit(
        split=SPLIT,
        total=total,
        header="{}",
        data="{}",
        run="r",
        pages=pages,
        window=window,
    )


def run(split: SealedSplit) -> tuple[list[int], int]:
    """The pages in the order they are sent, and the most page tasks that were open at a time."""
    sent = list(pages_to_send(split, None))
    open_tasks, most = deque(page_tasks(split, None)), 0
    while open_tasks:
        most = max(most, len(open_tasks))
        page = open_tasks.popleft()
        sent += pages_to_send(split, page)
        open_tasks += page_tasks(split, page)
    return sent, most


@given(st.integers(0, 100_000), st.floats(0, 1), st.integers(1, 16))
def test_every_page_is_sent_once_and_in_order(total: int, fullness: float, window: int) -> None:
    """However the parts are spread over pages; not more page tasks at a time than the window."""
    pages = min(total, max(-(-total // 256), int(total * fullness)))
    sent, most = run(sealed(total, pages, window))
    assert sent == list(range(pages))
    assert most <= window


@pytest.mark.parametrize(
    ("total", "layout", "window"),
    [(100_000, 2, 2), (153_599, 2, 2), (153_600, 2, 3), (153_600, 1, 2), (1_000_000, 2, 16)],
)
def test_the_window_grows_with_the_split_and_is_pinned_in_its_seal(
    total: int, layout: int, window: int
) -> None:
    """All that send its pages must agree; those of a job that an earlier version opened have two."""
    wire = FakeDynamoDB()
    settings = builders.settings(service_name="test", max_parts=total)
    store = JobStore(settings, table=Table("jobs", lambda: wire))  # type: ignore[arg-type,return-value]
    split = store.splits.seal(SPLIT, "{}", "{}", map(str, range(total)), layout=layout)
    assert split.window == window
    assert store.splits.sealed(SPLIT) == split
    assert len(page_tasks(split, None)) == window


def test_a_split_that_fits_the_window_sends_its_parts_itself() -> None:
    """One part more, and page tasks send them."""
    assert page_tasks(sealed(2 * PARTS, 2), None) == range(0)
    assert len(page_tasks(sealed(2 * PARTS + 1, 3), None)) == 2


def test_pages_of_few_large_parts_go_together() -> None:
    """A pool is kept busy, and one settlement still does not take long."""
    (first, *_) = page_tasks(sealed(1_000, 500), None)
    assert len(pages_to_send(sealed(1_000, 500), first)) == 32
