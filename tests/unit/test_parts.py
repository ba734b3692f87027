"""Pages of a split: each is sent once, by one page task, and only some at a time."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from pipeline.jobs import SealedSplit, SplitRef
from pipeline.worker.settle.parts import (
    PARTS,
    WINDOW,
    page_tasks,
    pages_to_send,
)


def sealed(total: int, pages: int) -> SealedSplit:
    return SealedSplit(
        split=SplitRef(job_id="j", stage="s", split_id="id"),
        total=total,
        header="{}",
        data="{}",
        run="r",
        pages=pages,
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


@given(st.integers(0, 100_000), st.floats(0, 1))
def test_every_page_is_sent_once_and_in_order(total: int, fullness: float) -> None:
    """However the parts are spread over pages; not more page tasks at a time than the window."""
    pages = min(total, max(-(-total // 256), int(total * fullness)))
    sent, most = run(sealed(total, pages))
    assert sent == list(range(pages))
    assert most <= WINDOW


def test_a_split_that_fits_the_window_sends_its_parts_itself() -> None:
    """One part more, and page tasks send them."""
    assert page_tasks(sealed(WINDOW * PARTS, WINDOW), None) == range(0)
    assert len(page_tasks(sealed(WINDOW * PARTS + 1, WINDOW + 1), None)) == WINDOW


def test_pages_of_few_large_parts_go_together() -> None:
    """A pool is kept busy, and one settlement still does not take long."""
    (first, *_) = page_tasks(sealed(1_000, 500), None)
    assert len(pages_to_send(sealed(1_000, 500), first)) == 32
