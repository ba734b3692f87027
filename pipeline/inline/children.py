"""Children without a worker: the processes in which a bridge runs stages, as a worker's pool runs them."""

import math
import threading
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery.concurrency.prefork import TaskPool

from pipeline.patience import Abandoned
from pipeline.transport.lease import Lease
from pipeline.worker import trace
from pipeline.worker.outcome import Outcome, failed
from pipeline.worker.runoptions import RunOptions

#: What the processes are called where Celery names the worker that a task ran on.
HOSTNAME = "bridge"

#: Seconds after which who waits for an outcome notices at the latest that there will be none.
LOOK_EVERY = 1.0


class Children:
    """A pool of processes; each runs one task at a time, within its limits, and is replaced when it dies."""

    def __init__(self, app: Any, processes: int) -> None:
        self._app = app
        self._ended = threading.Event()
        self.processes = processes
        # With threads of its own in place of a worker's event loop, and no slots to wait for: who runs here
        # waits for the outcome.
        self._pool = TaskPool(processes, threads=True, putlocks=False, initargs=(app, HOSTNAME), app=app)

    def start(self) -> None:
        """Fork them. To be called before this process has threads or connections."""
        # Each child would set up Celery's own logging.
        self._app.log.already_setup = True
        self._pool.start()

    def run(self, lease: Lease, traceparent: str | None) -> Callable[[], Outcome]:
        """Begin to run a task; what is returned waits for its outcome."""
        headers, task_id = lease.payload["headers"], str(lease.payload["headers"]["id"])
        task = self._app.tasks[headers["task"]]
        limit = task.time_limit or self._app.conf.task_time_limit
        options = RunOptions(
            attempt=lease.attempts + 1,
            limit=limit,
            start_before=math.inf,
            traceparent=traceparent,
        )
        request = {
            **headers,
            "correlation_id": task_id,
            "delivery_info": lease.payload["properties"]["delivery_info"],
            "hostname": HOSTNAME,
        }
        content = lease.payload["body"], lease.payload["content-type"], lease.payload["content-encoding"]
        result = self._pool.apply_async(
            trace.run,
            args=(task.name, task_id, request, *content, options),
            timeout=limit,
            soft_timeout=task.soft_time_limit,
        )
        return lambda: self._outcome(result)

    def end(self) -> None:
        """End them, whatever they run: nobody hears of it, and it comes again."""
        self._ended.set()
        self._pool.terminate()

    def _outcome(self, result: Any) -> Outcome:
        """What the child answered; or what ended the child, as a failure of its task."""
        while not result.ready() and not self._ended.is_set():
            result.wait(LOOK_EVERY)
        if self._ended.is_set():
            raise Abandoned
        try:
            outcome: Outcome = result.get()
        except ExceptionWithTraceback as error:
            return failed(error.exc)
        except Exception as error:  # noqa: BLE001 - billiard raises what ended it
            return failed(error)
        return outcome
