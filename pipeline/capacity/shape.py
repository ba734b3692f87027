"""The shape of a job: the numbers that decide what it costs."""

import math
from dataclasses import dataclass

from pipeline.jobs.splits import INLINE_BYTES, PAGE_PARTS, window_of
from pipeline.jobs.table import ITEM_BYTES
from pipeline.worker.settle.parts import PAGES, PARTS

#: What is left of the data of many parts once it is compressed. An assumption: those of one split look alike.
COMPRESSED = 1 / 3


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A kind of job, and its share of all jobs."""

    #: Stages on its path; 0: a plain Celery task, which is no job.
    stages: int = 1
    #: Parts of a split of one of these stages; 0: no stage is split.
    parts: int = 0
    #: Entities whose tasks are ordered; 0: its stages are not ordered.
    entities: int = 0
    #: Seconds that a task runs.
    run: float = 0.05
    #: Bytes of an event's data, of a part and of a part's result, as JSON.
    size: int = 200
    #: Its share of all jobs, relative to the other kinds.
    share: float = 1.0

    @property
    def is_plain(self) -> bool:
        """Whether it is a plain Celery task."""
        return self.stages == 0

    @property
    def packed(self) -> float:
        """Bytes of all its parts as they are stored."""
        return self.parts * self.size * COMPRESSED

    @property
    def pages(self) -> int:
        """Pages that hold the parts; 0 if they are in the seal."""
        fit = max(1, min(PAGE_PARTS, ITEM_BYTES // (self.size + 1)))
        return 0 if self.parts <= fit and self.packed <= INLINE_BYTES else math.ceil(self.parts / fit)

    @property
    def page_tasks(self) -> int:
        """Tasks that send the parts of a large split; 0 if the split's own task sends them."""
        if not self.pages:
            return 0
        step = max(1, min(PAGES, PARTS * self.pages // self.parts))
        return math.ceil(self.pages / step) if self.pages > window_of(self.parts) * step else 0

    @property
    def tasks(self) -> int:
        """All tasks of a job."""
        if self.is_plain:
            return 1
        # A split stage is a split, its parts, and a gather.
        return self.stages + (1 + self.parts + self.page_tasks if self.parts else 0)
