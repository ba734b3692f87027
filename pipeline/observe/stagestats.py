"""Stages at work: rate, failures and run times of the last minutes, and the workers, from Celery's events.

Workers send them when they were started with ``-E``; Flower reads the same. Nothing is asked of anybody: one
thread reads the events topic as a log, in no group, and keeps what fits the window.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from config.settings import Settings
from pipeline.monitoring.window import SPAN, Rates, Window
from pipeline.transport.controlmessage import EVENTS, HEARTBEATS_LAST, Payload
from pipeline.transport.envelope import PARSED
from pipeline.transport.feed import Feed, Past
from pipeline.transport.plane import DISABLED
from pipeline.transport.reach import Reach

#: How much of the past is read at the start; more records than a busy minute's.
PAST: Final = Past(seconds=SPAN, records=50_000)

#: The most runs under way that are remembered of a worker: the ends of some may have been lost.
MOST_RUNNING = 1_000

#: Events after which a run is no longer under way.
ENDS: Final = frozenset({"task-succeeded", "task-failed", "task-retried", "task-revoked", "task-rejected"})


@dataclass(frozen=True, kw_only=True)
class StageRates(Rates):
    """How a task does: of a stage its own (``count``), its split (``count.split``), its gather."""

    #: Runs under way now, on workers that are there.
    running: int


@dataclass(frozen=True, kw_only=True)
class WorkerSeen:
    """A worker that was heard of in the last minutes."""

    #: Its Celery node name.
    name: str
    #: Whether it gave a sign of life in the last seconds, and did not take its leave.
    online: bool
    #: When it was heard of last (seconds since 1970, by this process's clock).
    seen_at: float
    #: Tasks it runs at once at most, and now; None when it did not say.
    pool_size: int | None
    active: int | None


@dataclass(frozen=True, kw_only=True)
class StagesReading:
    """What the last minutes say."""

    #: By Celery's name of the task; what did nothing is not there.
    tasks: Mapping[str, StageRates]
    workers: Sequence[WorkerSeen]
    #: Why nothing can be read now, for people; None when it can, or when the reader has just begun.
    error: str | None
    #: When something was heard last (seconds since 1970); workers say something every two seconds.
    heard_at: float | None
    taken_at: float

    def rates(self, task: str) -> StageRates:
        """How a task does; zeros for one that did nothing."""
        return self.tasks.get(task, IDLE)


IDLE: Final = StageRates(per_second=0, failed_share=None, p50_seconds=None, p95_seconds=None, running=0)


@dataclass(kw_only=True)
class _Worker:
    seen_at: float
    online: bool = True
    pool_size: int | None = None
    active: int | None = None


class StageStats:
    """Listens from ``start`` to ``stop``. Brokers that are away are waited for, by the thread alone."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        """``clock`` is given by tests only."""
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._window = Window()
        self._workers: dict[str, _Worker] = {}
        #: Runs under way: of each worker the names of its tasks by their ids, oldest first.
        self._running: dict[str, dict[str, str]] = {}
        self._since = clock()
        self._heard_at: float | None = None
        self._feed: Feed | None = None

    def start(self) -> None:
        """Begin to listen, some minutes back. Returns at once."""
        if not self._settings.kafka_enabled:
            return
        events_topic = self._settings.control_topics[0]
        self._feed = Feed(self._settings, EVENTS, events_topic, PAST, Reach())
        self._feed.subscribe("stages", "#", self)
        self._feed.start()

    def stop(self) -> None:
        """Listen no more. Returns at once."""
        if self._feed is not None:
            self._feed.close()

    def snapshot(self) -> StagesReading:
        """What is known now. Never waits for Kafka."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            running = self._running_by_name(now)
            tasks = {
                name: StageRates(**vars(self._window.rates(name, now, self._since)), running=running[name])
                for name in self._window.names() | running.keys()
            }
            workers = [
                WorkerSeen(
                    name=name,
                    online=_is_online(worker, now),
                    seen_at=worker.seen_at,
                    pool_size=worker.pool_size,
                    active=worker.active,
                )
                for name, worker in sorted(self._workers.items())
            ]
            return StagesReading(
                tasks=tasks, workers=workers, error=self._error(), heard_at=self._heard_at, taken_at=now
            )

    # ─── The feed's thread ───

    def put(self, queue: str, message: Payload) -> None:
        """Take in a record of events."""
        body = message[PARSED]
        with self._lock:
            self._heard_at = self._clock()
            self._window.let_go(self._heard_at)
            for event in body if isinstance(body, list) else [body]:
                self._take(event, min(event["timestamp"], self._heard_at))

    def _take(self, event: Mapping[str, Any], at: float) -> None:
        self._since = min(self._since, at)
        kind, hostname, name = event["type"], event["hostname"], event.get("name")
        if kind.startswith("worker-"):
            self._take_worker(event, hostname, kind)
        elif isinstance(name, str) and kind.startswith("task-"):
            self._take_run(kind, hostname, event["uuid"], name)
            self._count(event, kind, name, at)

    def _take_run(self, kind: str, hostname: str, task_id: str, name: str) -> None:
        running = self._running.setdefault(hostname, {})
        if kind in ENDS:
            running.pop(task_id, None)
        elif kind == "task-started":
            running[task_id] = name
            if len(running) > MOST_RUNNING:
                del running[next(iter(running))]

    def _count(self, event: Mapping[str, Any], kind: str, name: str, at: float) -> None:
        # One that was done before this delivery did not run, and has no runtime.
        if kind == "task-succeeded" and isinstance(event.get("runtime"), int | float):
            self._window.done(name, event["runtime"], at)
        elif kind in ("task-failed", "task-retried"):
            self._window.failed(name, at)

    def _take_worker(self, event: Mapping[str, Any], hostname: str, kind: str) -> None:
        assert self._heard_at is not None
        worker = self._workers.setdefault(hostname, _Worker(seen_at=self._heard_at))
        worker.seen_at, worker.online = self._heard_at, kind != "worker-offline"
        worker.pool_size = _whole(event.get("pool_size"))
        worker.active = _whole(event.get("active"))
        if not worker.online or worker.active == 0:
            self._running.pop(hostname, None)

    # ─── What is known ───

    def _forget(self, now: float) -> None:
        self._window.let_go(now)
        for name in [name for name, worker in self._workers.items() if worker.seen_at < now - SPAN]:
            del self._workers[name]
            self._running.pop(name, None)

    def _running_by_name(self, now: float) -> Counter[str]:
        return Counter(
            name
            for hostname, running in self._running.items()
            if hostname in self._workers and _is_online(self._workers[hostname], now)
            for name in running.values()
        )

    def _error(self) -> str | None:
        if self._feed is None:
            return None if self._settings.kafka_enabled else DISABLED
        return str(self._feed.error) if self._feed.error and not self._feed.wait_opened(0) else None


def _is_online(worker: _Worker, now: float) -> bool:
    return worker.online and worker.seen_at > now - HEARTBEATS_LAST


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
