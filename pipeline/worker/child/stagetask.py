"""A stage as a Celery task: what a child does for a run, a split, a part and a gather."""

import time
from dataclasses import replace
from typing import Any, ClassVar, NoReturn

from celery import Task

from pipeline.context import CurrentTask, Part, running
from pipeline.errors import PermanentError, Retry
from pipeline.jobs import JobStore, SealedSplit
from pipeline.stages import Stage
from pipeline.taskmessage import TRACEPARENT, TaskHeader, sealed_header, trace_headers_of
from pipeline.worker.runoptions import running_options
from pipeline.worker.work import split_ref


class StageTask(Task):  # type: ignore[misc]
    """A stage under one of its Celery names; ``pipeline.worker.loader`` makes one for each name."""

    abstract = True
    #: the stage it runs
    stage: ClassVar[Stage[Any, Any]]
    #: the job store; a split and a gather read and write the table from the child, page by page
    store: ClassVar[JobStore]

    def run(self, data: str) -> str | None:
        """Run the role that the message names, on JSON; the result as JSON, None when nothing follows."""
        header = TaskHeader.read(vars(self.request))
        if header is None:
            raise PermanentError(
                f"Task {self.name} was sent without its pipeline header: the bridge makes a stage's tasks "
                'from events. Send an event instead, for example with "pipeline submit".'
            )
        with running(self._current(header)):
            return _ROLES[header.role](self, header, data)

    def retry(self, *args: Any, exc: Exception | None = None, **options: Any) -> NoReturn:
        """Celery's ``retry`` in a stage: the same message again after ``countdown`` or at ``eta``.

        A new message, as Celery would publish, would lose its place among those of its entity.
        """
        delay, eta = options.get("countdown"), options.get("eta")
        if delay is None:
            delay = self.default_retry_delay if eta is None else max(0.0, eta.timestamp() - time.time())
        raise Retry(delay, str(exc or "")) from exc

    def _current(self, header: TaskHeader) -> CurrentTask:
        request, part = self.request, header.part
        options = running_options.get()
        return CurrentTask(
            job_id=header.job_id,
            task_id=request.id,
            stage=header.stage,
            entity_id=header.entity_id,
            part=Part(ordinal=part.ordinal, total=part.total) if part else None,
            attempt=options.attempt,
            topic=header.topic,
            partition=header.partition,
            offset=header.offset,
            deadline=None if options.limit is None else time.time() + options.limit,
            traceparent=self._traceparent(),
        )

    def _traceparent(self) -> str | None:
        """The run's own; where nobody made one for it, the message's."""
        return running_options.get().traceparent or self.request.get(TRACEPARENT)

    def _run(self, header: TaskHeader, data: str) -> str | None:
        return self.stage.run(data)

    def _split(self, header: TaskHeader, data: str) -> None:
        """Run the generator unless the split is sealed: the number of its parts never changes."""
        ref = split_ref(header)
        if header.page is None and self.store.split(ref) is None:
            parts = self.stage.run_split(data)
            trace = trace_headers_of(vars(self.request), self._traceparent())
            self.store.seal(ref, sealed_header(header, trace), data, parts, self.stage.tolerate)

    def _part(self, header: TaskHeader, data: str) -> str:
        return self.stage.run_part(data)

    def _gather(self, header: TaskHeader, data: str) -> str | None:
        sealed = self._sealed(header)
        missing = self.store.missing(sealed)
        with running(replace(self._current(header), missing=tuple(sorted(missing)))):
            return self.stage.run_gather(data, self.store.results(sealed.split, sealed.total, missing))

    def _sealed(self, header: TaskHeader) -> SealedSplit:
        sealed = self.store.split(split_ref(header))
        if sealed is None:
            raise PermanentError(
                f"The split {header.split_id} of stage {header.stage} is not recorded, so nothing can be "
                "gathered: it is older than JOB_EXPIRY_DAYS, or DYNAMODB_TABLE is not the one it ran with."
            )
        return sealed


_ROLES = {
    "run": StageTask._run,
    "split": StageTask._split,
    "part": StageTask._part,
    "gather": StageTask._gather,
}
