"""Parts: the tasks of a sealed split, sent page by page; a large split sends a few pages at a time.

A split of up to ``window * PARTS`` parts sends them itself. A larger one sends ``window`` page tasks. Each
sends about ``PARTS`` parts and, behind them, the page task of the pages that come ``window`` steps later: the
queue delivers that after the parts before it. So the queue never holds more of one split, the tasks of a
small job wait behind no more, and no settlement takes long. After a crash a page task is redelivered, and
sends its pages again under the same ids.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from pipeline.author.registry import Registry
from pipeline.errors import PermanentError
from pipeline.jobs import JobStore, SealedPart, SealedSplit
from pipeline.ledger import gather_of
from pipeline.patience import Patience
from pipeline.wire import taskmessage
from pipeline.wire.taskmessage import TaskHeader, TaskMessage
from pipeline.worker.settle.work import Work

#: Parts that one page task sends, about: 26 requests, a few at once. In an ordered stage 257, one after the
#: other: a request takes one message of a group.
PARTS = 256
#: Pages that one page task reads at most, of 390 KB each (large parts are few to a page).
PAGES = 32


class PartTasks:
    """Makes the messages that follow a split, or one of its page tasks."""

    def __init__(self, registry: Registry, store: JobStore, patience: Patience) -> None:
        self._registry = registry
        self._store = store
        self._patience = patience

    def messages(self, work: Work, header: TaskHeader, sealed: SealedSplit | None) -> Iterator[TaskMessage]:
        """Yield the tasks to send, in order; raise ``PermanentError`` for a split that is not sealed."""
        if sealed is None:
            raise PermanentError(f"The split {header.split_id} ended without being sealed.")
        if sealed.total == 0:
            yield gather_of(self._registry, sealed)
        stage, trace = self._registry.by_name[header.stage], work.trace
        for part in self._parts(sealed, pages_to_send(sealed, header.page)):
            yield taskmessage.for_part(
                stage,
                header,
                part.ordinal,
                sealed.total,
                part.data,
                trace,
                keeps=sealed.keeps,
                entity=part.entity,
            )
        for page in page_tasks(sealed, header.page):
            yield taskmessage.for_pages(stage, header, page, trace)

    def _parts(self, sealed: SealedSplit, pages: Sequence[int]) -> Iterator[SealedPart]:
        """Yield the parts, page by page. Waits for DynamoDB during an outage."""
        yield from sealed.inline_parts
        for page in pages:
            yield from self._patience.one("read parts", partial(self._store.splits.page, sealed, page))


def pages_to_send(sealed: SealedSplit, page: int | None) -> range:
    """Return the pages whose parts a page task sends, or the split itself (None)."""
    if page is not None:
        return range(page, min(page + _step(sealed), sealed.pages))
    return range(sealed.pages) if sealed.pages <= sealed.window * _step(sealed) else range(0)


def page_tasks(sealed: SealedSplit, page: int | None) -> range:
    """Return the page tasks, by first page, that a page task sends, or the split itself (None)."""
    step = _step(sealed)
    if page is not None:
        return range(page + sealed.window * step, sealed.pages)[:1]
    return range(0, sealed.window * step, step) if sealed.pages > sealed.window * step else range(0)


def _step(sealed: SealedSplit) -> int:
    """Return the pages of one page task: always the same for a split."""
    return max(1, min(PAGES, PARTS * sealed.pages // max(1, sealed.total)))
