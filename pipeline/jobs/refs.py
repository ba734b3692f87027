"""References: the place of a task in its job."""

from dataclasses import dataclass, replace

from pipeline.wire.taskmessage import TaskHeader


@dataclass(frozen=True, kw_only=True)
class StageRef:
    """The run of an unsplit stage or the gather of a split one. Also a stage's event that became no task."""

    job_id: str
    stage: str
    #: True for the gather of a split stage. The stage's event has a reference of its own: each may fail.
    gather: bool = False
    #: The task's id; empty for any task of the stage.
    task_id: str = ""


@dataclass(frozen=True, kw_only=True)
class SplitRef:
    """The split of a stage, or one of its page tasks."""

    job_id: str
    stage: str
    #: The task id of the split's task.
    split_id: str
    #: The first page that a page task sends; None for the split itself.
    page: int | None = None


@dataclass(frozen=True, kw_only=True)
class PartRef:
    """One part of a split."""

    job_id: str
    stage: str
    split_id: str
    #: 0 … total - 1.
    ordinal: int
    #: Sealed: never changes once the first part is sent.
    total: int

    @property
    def split(self) -> SplitRef:
        """The split this is a part of."""
        return SplitRef(job_id=self.job_id, stage=self.stage, split_id=self.split_id)


Ref = StageRef | SplitRef | PartRef


def ref_of(header: TaskHeader) -> Ref:
    """Return the reference of a stage's task."""
    if header.role == "part" and header.part is not None:
        return PartRef(
            job_id=header.job_id,
            stage=header.stage,
            split_id=header.part.split_id,
            ordinal=header.part.ordinal,
            total=header.part.total,
        )
    if header.role == "split":
        return replace(split_ref(header), page=header.page)
    return StageRef(
        job_id=header.job_id, stage=header.stage, gather=header.role == "gather", task_id=header.task_id
    )


def split_ref(header: TaskHeader) -> SplitRef:
    """Return the reference of the split that a task belongs to."""
    return SplitRef(job_id=header.job_id, stage=header.stage, split_id=header.split_id)
