"""The pool of loop children: gives runs to them, hands over what they report, and replaces those that end."""

import itertools
import selectors
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import structlog
from celery.signals import worker_before_create_process

from pipeline.worker.child.loopframes import Began, End, Report, Run
from pipeline.worker.child.outcome import Returned
from pipeline.worker.loops.child import LoopChildProcess, PoolRun

log = structlog.get_logger(__name__)

#: Seconds after its hard limit in which a run may end by its cancellation; then its child is killed.
KILL_AFTER: Final = 5.0
#: Seconds that the runs of a cold shutdown may take to be cancelled, and that an idle child may take to end.
CANCEL_WITHIN, END_WITHIN = 2.0, 5.0
#: Seconds between two looks for runs that are overdue.
LOOK_EVERY: Final = 0.5
#: A child that lived for less is replaced only after as many seconds: it may fail to start.
SHORTEST_LIFE: Final = 1.0


class LoopPool:
    """Takes runs as Celery's pools do. Driven by the worker's event loop; from ``close`` on by a thread."""

    def __init__(
        self,
        app: Any,
        hostname: str,
        *,
        processes: int,
        runs_each: int,
        most_runs: int | None,
        tasks: Collection[str],
        kinds: Mapping[str, bool],
    ) -> None:
        """``most_runs``: how many runs a child is given before another one replaces it.

        ``tasks``: the names of the tasks that run here; ``kinds``: whether its tasks do, by queue
        that has only tasks that do or only tasks that do not.
        """
        self.tasks, self.kinds = tasks, kinds
        self._new_child: Callable[[], LoopChildProcess] = lambda: LoopChildProcess(app, hostname, runs_each)
        self.processes, self.runs_each = processes, runs_each
        self._most_runs = most_runs
        self._children: list[LoopChildProcess] = []
        #: those that take no more runs, but have some
        self._retired: list[LoopChildProcess] = []
        #: runs that wait for a child
        self._waiting: list[PoolRun] = []
        self._numbers = itertools.count(1)
        self._hub: Any = None
        self._closing = False
        #: when the runs that are left at a cold shutdown are ended (``time.monotonic``)
        self._end_at: float | None = None
        self._drain = threading.Thread(target=self._work, name="loop-pool", daemon=True)

    @property
    def slots(self) -> int:
        """How many runs it takes at a time."""
        return self.processes * self.runs_each

    def info(self) -> dict[str, Any]:
        """Return what ``inspect stats`` shows."""
        running = {child.pid: len(child.runs) for child in [*self._children, *self._retired]}
        return {"runs_each": self.runs_each, "runs_by_pid": running}

    def start(self) -> None:
        """Fork the children. Call it before this process has threads or connections."""
        for _ in range(self.processes):
            self._add_child()

    def register_with_event_loop(self, hub: Any) -> None:
        """Be driven by a worker's event loop, which forgets it at each reconnect."""
        self._hub = hub
        for child in [*self._children, *self._retired]:
            self._watch(child)
        hub.call_repeatedly(LOOK_EVERY, self._kill_overdue)

    def apply_async(
        self,
        target: Any,
        args: tuple[Any, ...],
        *,
        accept_callback: Callable[[int, float], None],
        timeout_callback: Callable[[bool, float], None],
        callback: Callable[..., None],
        timeout: float | None,
        **options: Any,
    ) -> PoolRun:
        """Run a task in the child that has the fewest; ``args`` are those of ``child.trace.run``."""
        run = PoolRun(
            Run(number=next(self._numbers), arguments=args),
            on_accepted=accept_callback,
            on_outcome=callback,
            on_killed=lambda limit: timeout_callback(False, limit),
            limit=timeout,
        )
        self._waiting.append(run)
        self._give()
        return run

    # ─── Ending ───

    def close(self) -> None:
        """Go on without the event loop, in a thread, until all runs are over. Returns at once."""
        self._closing = True
        self._hub = None
        if self._children or self._retired:
            self._drain.start()

    def terminate(self) -> None:
        """Give the runs that are left, and were told to end, a moment for it."""
        self._end_at = time.monotonic() + CANCEL_WITHIN

    def join(self) -> None:
        """Wait until all runs are over and the children have ended."""
        if self._drain.ident is not None:
            self._drain.join()

    def _work(self) -> None:
        selector = selectors.DefaultSelector()
        for child in [*self._children, *self._retired]:
            selector.register(child.reader, selectors.EVENT_READ, child)
        while any(child.runs for child in [*self._children, *self._retired]):
            for key, _ in selector.select(LOOK_EVERY):
                if key.data.is_open:
                    self._read(key.data)
                if not key.data.is_open:
                    selector.unregister(key.fileobj)
            self._kill_overdue()
        for run in self._waiting:
            _tell(run.on_outcome, Returned())
        for child in [*self._children, *self._retired]:
            child.send(End())
        for child in [*self._children, *self._retired]:
            child.close(END_WITHIN)

    # ─── Children ───

    def _add_child(self) -> None:
        worker_before_create_process.send(sender=self)
        child = self._new_child()
        self._children.append(child)
        if self._hub is not None:
            self._watch(child)
        self._give()

    def _watch(self, child: LoopChildProcess) -> None:
        self._hub.add_reader(child.reader, self._read, child)
        if not child.flush():
            self._hub.add_writer(child.writer, self._flush, child)

    def _flush(self, child: LoopChildProcess) -> None:
        if child.flush():
            self._hub.remove_writer(child.writer)

    def _give(self) -> None:
        while self._waiting and self._children:
            run = self._waiting.pop(0)
            child = min(self._children, key=lambda each: len(each.runs))
            child.give(run)
            if self._hub is not None and not child.flush():
                self._hub.add_writer(child.writer, self._flush, child)
            if self._most_runs and child.given >= self._most_runs:
                self._children.remove(child)
                self._retired.append(child)
                self._add_child()

    def _read(self, child: LoopChildProcess) -> None:
        reports = child.reports()
        if reports is None:
            self._bury(child)
            return
        for report in reports:
            self._take(child, report)
        if child in self._retired and not child.runs:
            child.send(End())

    def _take(self, child: LoopChildProcess, report: Report) -> None:
        if isinstance(report, Began):
            run = child.runs[report.number]
            run.restart_clock()
            _tell(run.on_accepted, child.pid, report.at)
        else:
            _tell(child.runs.pop(report.number).on_outcome, report.outcome)

    def _bury(self, child: LoopChildProcess) -> None:
        """End the runs of a child that has ended, and replace it."""
        if self._hub is not None:
            self._hub.remove(child.reader)
            self._hub.remove(child.writer)
        exit_code = child.close()
        was_retired = child in self._retired
        (self._retired if was_retired else self._children).remove(child)
        if not was_retired or child.runs:
            log.error("loop.child_died", pid=child.pid, exit_code=exit_code, runs=len(child.runs))
        for run in child.runs.values():
            if run is child.killed_for and run.limit is not None:
                _tell(run.on_killed, run.limit)
            else:
                # Nothing says which of them ended it. One that does so again and again is found as a suspect.
                _tell(run.on_outcome, Returned())
        child.runs.clear()
        if was_retired or self._closing:
            return
        if child.age < SHORTEST_LIFE:
            self._hub.call_later(SHORTEST_LIFE, self._add_child)
        else:
            self._add_child()

    def _kill_overdue(self) -> None:
        is_over = self._end_at is not None and time.monotonic() > self._end_at
        for child in [*self._children, *self._retired]:
            if self._hub is None:
                child.flush()
            overdue = next((run for run in child.runs.values() if run.is_overdue(KILL_AFTER)), None)
            if child.runs and (overdue or is_over):
                child.killed_for = overdue
                child.kill()


def _tell(callback: Callable[..., None], *args: Any) -> None:
    try:
        callback(*args)
    except Exception:
        # On the event loop, which an error would end, with the worker.
        log.exception("loop.callback_failed")
