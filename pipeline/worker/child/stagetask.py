"""The Celery task of a stage: runs the stage, its split, a part or its gather in a child."""

import time
from dataclasses import replace
from typing import Any, ClassVar, NoReturn

from celery import Task

from pipeline.author.context import CurrentTask, Part, running
from pipeline.author.stages import Emission, Stage
from pipeline.errors import PermanentError, Retry
from pipeline.jobs import JobStore, SealedSplit, split_ref
from pipeline.wire.references import Reference
from pipeline.wire.taskmessage import (
    TRACEPARENT,
    TaskHeader,
    sealed_header,
    trace_headers_of,
)
from pipeline.worker.child.runoptions import emitted_entity, running_options


class StageTask(Task):  # type: ignore[misc]
    """A stage under one of its Celery names; ``pipeline.worker.loader`` makes one for each name."""

    abstract = True
    #: what a stage returned is in its job
    ignore_result = True
    #: the stage it runs
    stage: ClassVar[Stage[Any, Any]]
    #: whether the function that it runs is async
    is_async: ClassVar[bool]
    #: the job store; a split and a gather read and write the table from the child, page by page
    store: ClassVar[JobStore]

    def run(self, data: str, reference: Reference | None = None) -> str | None:
        """Run the role that the message names on JSON; return JSON, or None when nothing follows.

        ``reference``: to the same data, where it is on S3.
        """
        header = TaskHeader.read(vars(self.request))
        if header is None:
            raise PermanentError(
                f"Task {self.name} was sent without its pipeline header: the bridge makes a stage's tasks "
                'from events. Send an event instead, for example with "pipeline submit".'
            )
        met = header.meeting(self.stage.is_split)
        if met is None:
            raise PermanentError(f"Stage {header.stage} has no split here: its {header.role} cannot run.")
        with running(self._current(met)):
            if met.role == "split":
                self._split(met, data, reference or data)
                return None
            return _ROLES[met.role](self, met, data)

    def retry(self, *args: Any, exc: Exception | None = None, **options: Any) -> NoReturn:
        """Retry with the same message after ``countdown`` or at ``eta``: Celery's ``retry`` in a stage.

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
        """Return the trace context of the run; without one, the message's."""
        return running_options.get().traceparent or self.request.get(TRACEPARENT)

    def _run(self, header: TaskHeader, data: str) -> str | None:
        return _emitted(self.stage.emission(data))

    def _split(self, header: TaskHeader, data: str, kept: str | Reference) -> None:
        """Run the generator unless the split is sealed: the number of its parts never changes.

        ``kept``: what the seal keeps of the data for the gather.
        """
        ref = split_ref(header)
        layout = self.store.splits.unsealed(ref) if header.page is None else None
        if layout is not None:
            parts = self.stage.parts(data)
            trace = trace_headers_of(vars(self.request), self._traceparent())
            self.store.splits.seal(
                ref, sealed_header(header, trace), kept, parts, self.stage.tolerate, layout
            )

    def _part(self, header: TaskHeader, data: str) -> str:
        return self.stage.run_part(data)

    def _gather(self, header: TaskHeader, data: str) -> str | None:
        if header.joins is not None:
            results = self.store.splits.results(split_ref(header), header.joins)
            return _emitted(self.stage.emission_of_gather(data, results))
        sealed = self._sealed(header)
        missing = self.store.splits.missing(sealed)
        with running(replace(self._current(header), missing=tuple(sorted(missing)))):
            results = self.store.splits.results(sealed.split, sealed.total, missing)
            return _emitted(self.stage.emission_of_gather(data, results))

    def _sealed(self, header: TaskHeader) -> SealedSplit:
        sealed = self.store.splits.sealed(split_ref(header))
        if sealed is None:
            raise PermanentError(
                f"The split {header.split_id} of stage {header.stage} is not recorded, so nothing can be "
                "gathered: it is older than JOB_EXPIRY_DAYS, or DYNAMODB_TABLE is not the one it ran with."
            )
        return sealed


def _emitted(emission: Emission) -> str | None:
    emitted_entity.set(emission.entity)
    return emission.data


_ROLES = {
    "run": StageTask._run,
    "part": StageTask._part,
    "gather": StageTask._gather,
}
