"""A loop child: a process of the worker whose runs wait together on one event loop."""

import asyncio
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any, Final

import structlog
from celery.concurrency.prefork import process_destructor, process_initializer

from pipeline.worker.child.loopframes import Began, CallOff, End, Ended, Frames, Report, Run, frame
from pipeline.worker.child.looprun import LoopRun, keep_stacks_by_run
from pipeline.worker.child.loopwatch import LoopWatch

log = structlog.get_logger(__name__)

#: Bytes read at a time.
READ: Final = 1 << 16


class LoopChild:
    """Runs what its worker orders, each run in a thread, which mostly waits for the run's coroutines.

    Celery's tracer, its signals and what a task publishes all block: a thread for each run keeps them off
    the loop, and they need no version of their own.
    """

    def __init__(self, connection: socket.socket, most: int) -> None:
        """``most``: how many runs at a time."""
        self._connection = connection
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="run")
        self._runs: dict[int, LoopRun] = {}

    async def serve(self) -> None:
        """Run tasks until the worker says that it is enough; without a worker end the process."""
        self._loop = asyncio.get_running_loop()
        watch = LoopWatch(self._loop)
        reader, self._writer = await asyncio.open_connection(sock=self._connection)
        frames = Frames()
        while data := await reader.read(READ):
            for order in frames.feed(data):
                if isinstance(order, End):
                    watch.stop()
                    await asyncio.to_thread(self._threads.shutdown)
                    return
                self._take(order)
        os._exit(1)  # its runs are another worker's by and by

    def _take(self, order: Run | CallOff) -> None:
        if isinstance(order, CallOff):
            if (run := self._runs.get(order.number)) is not None:
                run.call_off()
            return
        self._runs[order.number] = LoopRun(self._loop, order)
        self._threads.submit(Context().run, self._run, order.number)

    def _run(self, number: int) -> None:
        self._loop.call_soon_threadsafe(self._send, Began(number=number, at=time.monotonic()))
        outcome = self._runs[number].trace()
        self._loop.call_soon_threadsafe(self._end, Ended(number=number, outcome=outcome))

    def _end(self, report: Ended) -> None:
        del self._runs[report.number]
        self._send(report)

    def _send(self, report: Report) -> None:
        self._writer.write(frame(report))


def main(app: Any, hostname: str, connection: socket.socket, most: int) -> None:
    """Be a loop child: the target of its process."""
    process_initializer(app, hostname)
    keep_stacks_by_run(app.tasks)
    loop = asyncio.new_event_loop()
    serving = loop.create_task(LoopChild(connection, most).serve())
    while not serving.done():
        try:
            loop.run_until_complete(serving)
        except (SystemExit, KeyboardInterrupt) as error:
            # Of a run's code; the run has failed with it, if it awaits that code. The other runs go on.
            log.warning("loop.exit_ignored", error=type(error).__name__)
    process_destructor(os.getpid(), 0)
