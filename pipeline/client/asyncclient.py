"""The client for code on an event loop: the same calls, in threads of its own, which never block the loop."""

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from pipeline.author.stages import Stage
from pipeline.client.client import Client
from pipeline.client.handle import JobHandle
from pipeline.client.jobaccess import JobAccess
from pipeline.client.waiting import pauses, seconds_left
from pipeline.errors import PipelineError
from pipeline.jobs import Job, JobState

#: Calls to services at a time; others wait for a thread. A call takes milliseconds, or seconds in an outage.
THREADS = 8

In = TypeVar("In")
Item = TypeVar("Item")
T = TypeVar("T")


class AsyncClient:
    """``Client`` for coroutines. A call that is cancelled may still have its effect: submit under a key."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        """As ``Client``. It reads settings only, so it may be made anywhere."""
        self._client = Client(settings)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pipeline-client")

    async def close(self) -> None:
        """Send unacknowledged events, for some seconds at most, and disconnect from Kafka."""
        await self.call(self._client.close)
        self._threads.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @overload
    async def submit(
        self, start: Stage[In, Any], data: In, *, entity: str | None = None, key: str | None = None
    ) -> "AsyncJobHandle": ...

    @overload
    async def submit(
        self,
        start: Callable[[In], Iterable[Any]],
        data: In,
        *,
        entity: str | None = None,
        key: str | None = None,
    ) -> "AsyncJobHandle": ...

    @overload
    async def submit(
        self, start: str, data: Any, *, entity: str | None = None, key: str | None = None
    ) -> "AsyncJobHandle": ...

    async def submit(
        self, start: Any, data: Any, *, entity: str | None = None, key: str | None = None
    ) -> "AsyncJobHandle":
        """Submit a job, as ``Client.submit``."""
        handle = await self.call(partial(self._client.submit, start, data, entity=entity, key=key))
        return self._handle(handle)

    @overload
    async def submit_many(
        self,
        start: Stage[In, Any],
        items: Iterable[In],
        *,
        entity: Callable[[In], str] | None = None,
        key: Callable[[In], str] | None = None,
    ) -> "list[AsyncJobHandle | PipelineError]": ...

    @overload
    async def submit_many(
        self,
        start: Callable[[In], Iterable[Any]],
        items: Iterable[In],
        *,
        entity: Callable[[In], str] | None = None,
        key: Callable[[In], str] | None = None,
    ) -> "list[AsyncJobHandle | PipelineError]": ...

    @overload
    async def submit_many(
        self,
        start: str,
        items: Iterable[Item],
        *,
        entity: Callable[[Item], str] | None = None,
        key: Callable[[Item], str] | None = None,
    ) -> "list[AsyncJobHandle | PipelineError]": ...

    async def submit_many(
        self,
        start: Any,
        items: Iterable[Any],
        *,
        entity: Callable[[Any], str] | None = None,
        key: Callable[[Any], str] | None = None,
    ) -> "list[AsyncJobHandle | PipelineError]":
        """Submit a job for each item, as ``Client.submit_many``; ``entity`` and ``key`` run in a thread."""
        answers = await self.call(partial(self._client.submit_many, start, items, entity=entity, key=key))
        return [each if isinstance(each, PipelineError) else self._handle(each) for each in answers]

    def handle(self, job_id: str) -> "AsyncJobHandle":
        """Return the handle of a job by its id. Asks no service."""
        return self._handle(self._client.handle(job_id))

    def _handle(self, handle: JobHandle) -> "AsyncJobHandle":
        return AsyncJobHandle(self, handle.access, existed=handle.existed)

    async def call(self, call: Callable[[], T]) -> T:
        """Run a call in one of the threads, with the caller's context variables."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, call)


class AsyncJobHandle:
    """``JobHandle`` for coroutines."""

    def __init__(self, client: AsyncClient, access: JobAccess, *, existed: bool = False) -> None:
        self._client = client
        self._access = access
        #: the job's id
        self.id = access.job_id
        #: whether the job was submitted before, under the same key
        self.existed = existed

    def __repr__(self) -> str:
        return f"<job {self.id}>"

    async def status(self) -> JobState:
        """Return the job's state, as ``JobHandle.status``."""
        return (await self._client.call(self._access.read)).state

    async def wait(self, timeout: float | None = None) -> JobState:
        """Wait until the job has ended, as ``JobHandle.wait``. No thread is held in between."""
        return (await self._ended(timeout)).state

    async def result(
        self, timeout: float | None = None, *, stage: str | Stage[Any, Any] | None = None
    ) -> Any:
        """Wait for the result, as ``JobHandle.result``."""
        job = await self._ended(timeout)
        return await self._client.call(partial(self._access.result, job, stage))

    async def cancel(self) -> bool:
        """Cancel the job, as ``JobHandle.cancel``."""
        return await self._client.call(self._access.cancel)

    async def _ended(self, timeout: float | None) -> Job:
        end = None if timeout is None else time.monotonic() + timeout
        waits = pauses()
        while (job := await self._client.call(self._access.read)).state is JobState.RUNNING:
            await asyncio.sleep(seconds_left(self.id, next(waits), end))
        return job
