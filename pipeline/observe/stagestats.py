"""Statistics of stages from the events of Celery: rates, failures, run times, and the workers.

Flower reads the same. One thread reads the events topic as a log, without a consumer group, and keeps what
ended in the window. A worker may send the task events of a share of its jobs only: runs are counted by its
heartbeats, whose counters are of all tasks, and the events tell how long runs took. Until its first heartbeat
is read, and of a worker of an earlier version, runs are counted by the events.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.control.controlmessage import EVENTS, Payload
from pipeline.control.controlplane import DISABLED
from pipeline.control.reachability import Reachability
from pipeline.control.taskcounts import STANDS_FOR, one_in
from pipeline.control.topicreader import Past, TopicReader
from pipeline.observe.seenworker import SeenWorker
from pipeline.observe.window import SPAN, Rates, Window
from pipeline.settings import Settings
from pipeline.transport.envelope import PARSED

#: How much of the past is read at the start; more records than in a busy minute.
PAST: Final = Past(seconds=SPAN, records=50_000)

#: The most current runs that are remembered of a worker: the events of some ends may have been lost.
MOST_RUNNING = 1_000

#: The most workers that are kept; of more, those that are not online make place. It bounds memory and the
#: jobs page.
MOST_WORKERS = 1_000

#: Events that end a run.
ENDS: Final = frozenset({"task-succeeded", "task-failed", "task-retried", "task-revoked", "task-rejected"})


@dataclass(frozen=True, kw_only=True)
class StageRates(Rates):
    """Rates of a task: a stage's own (``count``), its split (``count.split``), or its gather."""

    #: Current runs on workers that are online; None while unknown.
    running: int | None


@dataclass(frozen=True, kw_only=True)
class WorkerSeen:
    """A worker that sent an event in the last minutes."""

    #: Its Celery node name.
    name: str
    #: Whether it sent a heartbeat in the last seconds, and no goodbye.
    online: bool
    #: When its last event was read (seconds since 1970, by this process's clock).
    seen_at: float
    #: The most tasks that it runs at once, and those it runs now; None if its events do not tell.
    pool_size: int | None
    active: int | None
    #: N where it sends the task events of one job in N.
    one_in: int = 1


@dataclass(frozen=True, kw_only=True)
class StagesReading:
    """The statistics of the last minutes."""

    #: By Celery's name of the task; tasks without events are left out. Empty while events cannot be read.
    tasks: Mapping[str, StageRates]
    workers: Sequence[WorkerSeen]
    #: Why events cannot be read now, so nothing is known; None if they can, or if reading has just begun.
    error: str | None
    #: Whether there are as many workers, or names of tasks, as are kept: more are left out.
    is_full: bool = False
    #: When the last event was read (seconds since 1970); workers send one every two seconds.
    heard_at: float | None
    taken_at: float

    @property
    def online(self) -> int:
        """The number of workers that are online."""
        return sum(worker.online for worker in self.workers)

    def rates(self, task: str) -> StageRates:
        """Return the rates of a task; zeros for one without events."""
        return UNKNOWN if self.error else self.tasks.get(task, IDLE)


IDLE: Final = StageRates(per_second=0, failed_share=None, p50_seconds=None, p95_seconds=None, running=0)
UNKNOWN: Final = StageRates(
    per_second=None, failed_share=None, p50_seconds=None, p95_seconds=None, running=None
)


class StageStats:
    """Reads events from ``start`` to ``stop``. Only its thread waits for brokers that are away."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        """``clock`` is replaced by tests only."""
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._window = Window()
        self._workers: dict[str, SeenWorker] = {}
        #: Current runs of each worker: the names of tasks by their ids, oldest first.
        self._running: dict[str, dict[str, str]] = {}
        self._since = clock()
        self._heard_at: float | None = None
        self._reader: TopicReader | None = None

    def start(self) -> None:
        """Start to read, from some minutes ago. Returns at once."""
        if not self._settings.kafka_enabled:
            return
        events_topic = self._settings.control_topics[0]
        self._reader = TopicReader(self._settings, EVENTS, events_topic, PAST, Reachability())
        self._reader.subscribe("stages", "#", self)
        self._reader.start()

    def stop(self) -> None:
        """Stop reading. Returns at once."""
        if self._reader is not None:
            self._reader.close()

    def wait_for_past(self, timeout: float) -> bool:
        """Wait until the events of the last minutes have been read. False after ``timeout`` seconds."""
        return self._reader is not None and self._reader.wait_caught_up(timeout)

    def snapshot(self) -> StagesReading:
        """Return the statistics as of now. Never waits for Kafka."""
        error = self._error()
        with self._lock:
            now = self._clock()
            if error:
                return StagesReading(tasks={}, workers=(), error=error, heard_at=self._heard_at, taken_at=now)
            self._forget(now)
            running = self._running_by_name(now)
            tasks = {
                name: StageRates(**vars(self._window.rates(name, now, self._since)), running=running[name])
                for name in self._window.names() | running.keys()
            }
            workers = [
                WorkerSeen(
                    name=name,
                    online=worker.is_online(now),
                    seen_at=worker.seen_at,
                    pool_size=worker.pool_size,
                    active=worker.active,
                    one_in=worker.one_in,
                )
                for name, worker in sorted(self._workers.items())
            ]
            return StagesReading(
                tasks=tasks,
                workers=workers,
                is_full=self._window.is_full or len(self._workers) >= MOST_WORKERS,
                error=None,
                heard_at=self._heard_at,
                taken_at=now,
            )

    # ─── The feed's thread ───

    def put(self, queue: str, message: Payload) -> None:
        """Take in a record of events; called by the feed."""
        body = message[PARSED]
        with self._lock:
            self._heard_at = self._clock()
            self._window.drop_old(self._heard_at)
            for event in body if isinstance(body, list) else [body]:
                self._take(event, min(event["timestamp"], self._heard_at))

    def _take(self, event: Mapping[str, Any], at: float) -> None:
        self._since = min(self._since, at)
        kind, hostname, name = event["type"], event["hostname"], event.get("name")
        if kind.startswith("worker-"):
            self._take_worker(event, hostname, at)
        elif isinstance(name, str) and kind.startswith("task-"):
            self._take_run_time(event, kind, name, at)
            if (worker := self._workers.get(hostname)) is None or worker.counts is None:
                self._take_run(kind, hostname, event["uuid"], name)
                self._count(event, kind, name, at)

    def _take_run(self, kind: str, hostname: str, task_id: str, name: str) -> None:
        if hostname not in self._running and not self._has_room(hostname):
            return
        running = self._running.setdefault(hostname, {})
        if kind in ENDS:
            running.pop(task_id, None)
        elif kind == "task-started":
            running[task_id] = name
            if len(running) > MOST_RUNNING:
                del running[next(iter(running))]

    def _has_room(self, hostname: str) -> bool:
        """Whether the runs of one more worker may be kept; those of one without heartbeats make room."""
        if len(self._running) >= MOST_WORKERS:
            silent = next((name for name in self._running if name not in self._workers), None)
            if silent is None:
                return False
            del self._running[silent]
        return True

    def _take_run_time(self, event: Mapping[str, Any], kind: str, name: str, at: float) -> None:
        if _has_succeeded(kind, event):
            self._window.add_run_time(name, event["runtime"], at, one_in(event.get(STANDS_FOR)))

    def _count(self, event: Mapping[str, Any], kind: str, name: str, at: float) -> None:
        if _has_succeeded(kind, event):
            self._window.add_ends(name, at, at, done=one_in(event.get(STANDS_FOR)))
        elif kind in ("task-failed", "task-retried"):
            self._window.add_ends(name, at, at, failed=1)

    def _take_worker(self, event: Mapping[str, Any], hostname: str, at: float) -> None:
        assert self._heard_at is not None
        if hostname not in self._workers and not self._make_place(self._heard_at):
            return
        worker = self._workers.pop(hostname, None) or SeenWorker(seen_at=self._heard_at)
        # At the end, so that the first is the one that has been silent for the longest time.
        self._workers[hostname] = worker
        for name, start, end, done, failed in worker.take(event, at, self._heard_at):
            self._window.add_ends(name, start, end, done=done, failed=failed)
        is_counted = worker.says_goodbye or worker.counts is not None
        self._keep_newest(hostname, 0 if is_counted else worker.active)

    def _make_place(self, now: float) -> bool:
        """Whether one more worker may be kept; one that is no longer online makes place."""
        if len(self._workers) >= MOST_WORKERS:
            silent = next(iter(self._workers))
            if self._workers[silent].is_online(now):
                return False
            self._forget_worker(silent)
        return True

    def _keep_newest(self, hostname: str, active: int | None) -> None:
        """Forget runs beyond those that the worker says it runs: the events of their ends were lost."""
        running = self._running.get(hostname)
        if running is not None and active is not None:
            for task_id in list(running)[: max(0, len(running) - active)]:
                del running[task_id]

    # ─── Statistics ───

    def _forget(self, now: float) -> None:
        self._window.drop_old(now)
        for name in [name for name, worker in self._workers.items() if worker.seen_at < now - SPAN]:
            self._forget_worker(name)

    def _forget_worker(self, name: str) -> None:
        del self._workers[name]
        self._running.pop(name, None)

    def _running_by_name(self, now: float) -> Counter[str]:
        """Count current runs: a worker's own count; of one without, the newest that its pool can hold."""
        counts: Counter[str] = Counter()
        for hostname, worker in self._workers.items():
            if not worker.is_online(now):
                continue
            if worker.counts is not None:
                counts.update({name: count.running for name, count in worker.counts.items() if count.running})
            elif running := self._running.get(hostname):
                # A run that has ended counts here until it is settled: its event comes after that.
                most = MOST_RUNNING if worker.pool_size is None else worker.pool_size
                counts.update(list(running.values())[max(0, len(running) - most) :])
        return counts

    def _error(self) -> str | None:
        if self._reader is None:
            return None if self._settings.kafka_enabled else DISABLED
        return str(self._reader.error) if self._reader.error and not self._reader.wait_opened(0) else None


def _has_succeeded(kind: str, event: Mapping[str, Any]) -> bool:
    # A task that was done before this delivery did not run, and has no runtime.
    return kind == "task-succeeded" and isinstance(event.get("runtime"), int | float)
