"""The processes in which a bridge runs stages: a worker's pool, without the worker."""

import math
import threading
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery.concurrency.prefork import TaskPool

from pipeline.patience import Abandoned
from pipeline.transport.lease import Lease
from pipeline.worker.child import trace
from pipeline.worker.child.outcome import Outcome, failed
from pipeline.worker.child.runoptions import RunOptions

#: The name of the worker, for Celery and in records of tasks that ran here.
HOSTNAME = "bridge"

#: Seconds between two checks whether the pool was ended, while an outcome is waited for.
CHECK_EVERY = 1.0


class Children:
    """A pool of processes; each runs one task at a time, within its limits, and is replaced when it dies."""

    def __init__(self, app: Any, processes: int) -> None:
        self._app = app
        self._ended = threading.Event()
        self.processes = processes
        # With threads of its own in place of a worker's event loop. No locks for free slots: each thread that
        # runs a task waits for its outcome.
        self._pool = TaskPool(processes, threads=True, putlocks=False, initargs=(app, HOSTNAME), app=app)

    def start(self) -> None:
        """Fork the processes. Call it before this process has threads or connections."""
        # Each child would set up Celery's own logging.
        self._app.log.already_setup = True
        self._pool.start()

    def run(self, lease: Lease, traceparent: str | None) -> Callable[[], Outcome]:
        """Start to run a task; the function returned waits for its outcome."""
        envelope = lease.envelope
        assert envelope is not None
        task = self._app.tasks[envelope.task_name]
        limits = task.time_limit, self._app.conf.task_time_limit
        limit = next(filter(None, limits), self._app.pipeline.settings.task_time_limit)
        options = RunOptions(
            attempt=lease.attempts + 1,
            limit=limit,
            start_before=math.inf,
            traceparent=traceparent,
        )
        content = (envelope.payload["content-type"], envelope.payload["content-encoding"])
        request = {
            **envelope.headers,
            "correlation_id": envelope.task_id,
            "delivery_info": envelope.payload["properties"]["delivery_info"],
            "hostname": HOSTNAME,
        }
        result = self._pool.apply_async(
            trace.run,
            args=(task.name, envelope.task_id, request, envelope.body, *content, options),
            timeout=limit,
            soft_timeout=task.soft_time_limit,
        )
        return lambda: self._outcome(result)

    def end(self) -> None:
        """End the processes, whatever they run: it has no outcome, and is run again."""
        self._ended.set()
        self._pool.terminate()

    def _outcome(self, result: Any) -> Outcome:
        """Return the child's answer, or what ended the child as a failure of its task."""
        # In this order: a pool that was ended meanwhile takes no task, and its result is None.
        while not self._ended.is_set() and not result.ready():
            result.wait(CHECK_EVERY)
        if self._ended.is_set():
            raise Abandoned
        try:
            outcome: Outcome = result.get()
        except ExceptionWithTraceback as error:
            return failed(error.exc)
        except Exception as error:  # noqa: BLE001 - billiard raises what ended the child
            return failed(error)
        return outcome
