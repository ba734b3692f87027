"""A client for producers and callers: it submits jobs, waits for them, reads their results, cancels them."""

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from pydantic_core import PydanticSerializationError, to_json

from pipeline.author.registry import REGISTRY
from pipeline.author.stages import Stage
from pipeline.client.handle import JobHandle
from pipeline.client.jobaccess import JobAccess
from pipeline.client.submission import Submission, SubmittedJob, Submitter
from pipeline.errors import InvalidInputError, PipelineError
from pipeline.jobs import JobStore
from pipeline.kafka import EventProducer
from pipeline.settings import load_settings
from pipeline.vault import environment

#: Seconds to wait for unacknowledged records at the end.
CLOSING = 5.0

#: Jobs whose records and events are written together.
BATCH = 500

In = TypeVar("In")
Item = TypeVar("Item")

#: Where jobs begin: a stage, the split of a stage (which takes the event's data), or the name of a stage or
#: topic.
Start = Stage[Any, Any] | Callable[[Any], Iterable[Any]] | str


class Client:
    """Submits jobs to one service, and follows them. No worker, bridge or stage's code is needed here.

    Threads may share it. It connects at first use, and in a forked process by itself. Close it at the end, or
    use it as a context manager.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        """``settings``: variables in place of the environment's. AWS's own are read from the environment.

        Raise ``ConfigurationError`` for missing or wrong ones.
        """
        self._settings = load_settings(environment() if settings is None else settings)
        self._store = JobStore(self._settings)
        self._producer = EventProducer(self._settings, "client")
        #: By start. No lock: of two that are made at once either is as good.
        self._submitters: dict[str, Submitter] = {}

    def close(self) -> None:
        """Send unacknowledged events, for some seconds at most, and disconnect from Kafka."""
        self._producer.close(CLOSING)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @overload
    def submit(
        self, start: Stage[In, Any], data: In, *, entity: str | None = None, key: str | None = None
    ) -> JobHandle: ...

    @overload
    def submit(
        self,
        start: Callable[[In], Iterable[Any]],
        data: In,
        *,
        entity: str | None = None,
        key: str | None = None,
    ) -> JobHandle: ...

    @overload
    def submit(
        self, start: str, data: Any, *, entity: str | None = None, key: str | None = None
    ) -> JobHandle: ...

    def submit(
        self, start: Any, data: Any, *, entity: str | None = None, key: str | None = None
    ) -> JobHandle:
        """Submit a job; return its handle when Kafka acknowledged its first event.

        ``start``: a stage; the split of a stage, for the data of the event that it divides; or the name of a
        stage or topic, which bridges of the service run. ``data``: of the annotation; with a name, whatever
        pydantic writes as JSON. ``entity``: the key of the job's events; without one the job is its own
        entity. ``key``: a name of your own for the job. Submitted again under it, the job runs once, and has
        the same handle, for JOB_EXPIRY_DAYS after its last change.

        Raise, with nothing written, ``InvalidInputError`` or ``InvalidEventError`` for what could only fail,
        ``KeyConflictError`` for a key that has a job with other data, and ``ServiceError`` if Kafka or
        DynamoDB does not answer. If the acknowledgement is lost, the ``ServiceError`` names the job; submit
        it again under its key.
        """
        submitter = self._submitter(start)
        submission = Submission(data=_dump(start, data), entity_id=entity, key=key)
        submitter.check(submission)
        (answer,) = submitter.submit([submission])
        if isinstance(answer, PipelineError):
            raise answer
        return JobHandle(self._access(answer.job_id), existed=answer.existed)

    @overload
    def submit_many(
        self,
        start: Stage[In, Any],
        items: Iterable[In],
        *,
        entity: Callable[[In], str] | None = None,
        key: Callable[[In], str] | None = None,
    ) -> list[JobHandle | PipelineError]: ...

    @overload
    def submit_many(
        self,
        start: Callable[[In], Iterable[Any]],
        items: Iterable[In],
        *,
        entity: Callable[[In], str] | None = None,
        key: Callable[[In], str] | None = None,
    ) -> list[JobHandle | PipelineError]: ...

    @overload
    def submit_many(
        self,
        start: str,
        items: Iterable[Item],
        *,
        entity: Callable[[Item], str] | None = None,
        key: Callable[[Item], str] | None = None,
    ) -> list[JobHandle | PipelineError]: ...

    def submit_many(
        self,
        start: Any,
        items: Iterable[Any],
        *,
        entity: Callable[[Any], str] | None = None,
        key: Callable[[Any], str] | None = None,
    ) -> list[JobHandle | PipelineError]:
        """Submit a job for each item, many in a request; return the handle, or the error, of each, in order.

        ``entity`` and ``key`` are functions of the item. Nothing is submitted if one of them could only fail:
        then it raises as ``submit`` does.
        """
        submitter = self._submitter(start)
        submissions = [
            Submission(
                data=_dump(start, item),
                entity_id=entity(item) if entity else None,
                key=key(item) if key else None,
            )
            for item in items
        ]
        for submission in submissions:
            submitter.check(submission)
        answers: list[SubmittedJob | PipelineError] = []
        for begin in range(0, len(submissions), BATCH):
            answers += submitter.submit(submissions[begin : begin + BATCH])
        return [
            each
            if isinstance(each, PipelineError)
            else JobHandle(self._access(each.job_id), existed=each.existed)
            for each in answers
        ]

    def handle(self, job_id: str) -> JobHandle:
        """Return the handle of a job by its id. Asks no service: its use tells whether the job exists."""
        return JobHandle(self._access(job_id))

    def _access(self, job_id: str) -> JobAccess:
        return JobAccess(self._settings, self._store, self._producer, job_id)

    def _submitter(self, start: Start) -> Submitter:
        name = _name(start)
        submitter = self._submitters.get(name)
        if submitter is None:
            submitter = Submitter(
                self._settings, REGISTRY, self._store, self._producer, name, asks_bridges=True
            )
            self._submitters[name] = submitter
        return submitter


def _name(start: Start) -> str:
    """Return the name of a start; raise ``TypeError`` for what is none."""
    if isinstance(start, str):
        return start
    return _stage_of(start).name


def _stage_of(start: Stage[Any, Any] | Callable[[Any], Iterable[Any]]) -> Stage[Any, Any]:
    if isinstance(start, Stage):
        return start
    for stage in REGISTRY.by_name.values():
        if stage.is_split_by(start):
            return stage
    raise TypeError(f"{start!r} is no stage, no stage's split, and no name of a stage or topic.")


def _dump(start: Start, data: Any) -> bytes:
    if not isinstance(start, str):
        return _stage_of(start).dump_input(data).encode()
    try:
        return to_json(data)
    except (PydanticSerializationError, ValueError, TypeError) as error:
        raise InvalidInputError(f"The data for {start} cannot be written as JSON: {error}") from error
