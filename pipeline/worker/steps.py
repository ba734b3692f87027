"""The worker's own steps: what is checked before it starts, and settlement."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from celery import bootsteps
from celery.worker import state

from config.settings import Settings
from pipeline.checks import check_start
from pipeline.errors import ConfigurationError, ServiceError
from pipeline.jobs import JobStore
from pipeline.kafka import EventProducer
from pipeline.patience import Patience
from pipeline.registry import REGISTRY, Registry
from pipeline.telemetry import metrics, tracing
from pipeline.transport.inbound import close_inbound, inbound
from pipeline.transport.lease import LONGEST_HOLD, Lease
from pipeline.worker import counting, timers
from pipeline.worker.cancelled import CancelledJobs
from pipeline.worker.closing import Closer
from pipeline.worker.consumer import EVENTS_EVERY
from pipeline.worker.deadletter import DeadLetters
from pipeline.worker.dispatch import Dispatch
from pipeline.worker.effects import Effects
from pipeline.worker.outcome import Failed
from pipeline.worker.refused import start_refused
from pipeline.worker.request import Request
from pipeline.worker.retry import Retries
from pipeline.worker.screen import Screen
from pipeline.worker.settlement import Settlement
from pipeline.worker.unrun import Unrun
from pipeline.worker.work import Work

log = structlog.get_logger(__name__)

#: Seconds that a stopping worker waits for settlement, and then for the queue.
SETTLE_TIMEOUT, CLOSE_TIMEOUT = 30.0, 10.0

#: Pools that cannot end a running task: a time limit would be ignored there.
LIMITLESS_POOLS = ("solo", "thread")


class Preflight(bootsteps.Step):  # type: ignore[misc]
    """Refuse to start rather than lose a task later."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        try:
            check_pool(pool_name(worker.pool_cls))
            takes = sorted(worker.app.amqp.queues.consume_from)
            check_start(worker.app.settings, REGISTRY, takes)
            tell_queues(worker.app.settings, REGISTRY, takes)
            # Before the pool forks.
            tracing.start(worker.app.settings.service_name, os.environ)
        except (ConfigurationError, ServiceError) as error:
            raise start_refused(error) from error


def pool_name(pool: Any) -> str:
    """The last part of the module of a pool or its class: prefork, solo, thread, gevent, eventlet."""
    return str(pool.__module__).rsplit(".", 1)[1]


def check_pool(pool: str) -> None:
    """Refuse a pool in which tasks would be lost, or a stage's limits ignored."""
    if pool in ("gevent", "eventlet"):
        raise ConfigurationError(
            f"The pool {pool} has no event loop of Celery's, and Kafka's client would block all its tasks. "
            "Use --pool prefork (the default), threads or solo."
        )
    limited = [s.name for s in REGISTRY.by_name.values() if s.time_limit or s.soft_time_limit]
    if limited and pool in LIMITLESS_POOLS:
        raise ConfigurationError(
            f"The pool {pool} cannot end a running task, but {', '.join(limited)} set a time limit. "
            "Use --pool prefork, or remove the limits."
        )


def tell_queues(settings: Settings, registry: Registry, takes: Sequence[str]) -> None:
    """Log the queues of stages that a worker does not take from, and the option that would.

    As a warning where it takes from the task queue alone, as it does when nobody says: a stage with a queue
    of its own may have no worker at all. Other workers' queues are no fault of one that was given -Q.
    """
    queues = {stage.queue or settings.task_queue for stage in registry.by_name.values()}
    not_taken = sorted(queues - set(takes))
    if not_taken and settings.use_sqs_task_processing:
        say = log.warning if list(takes) == [settings.task_queue] else log.info
        mend = f"start a worker with -Q {','.join(not_taken)}"
        say("worker.queues", takes=list(takes), not_taken=not_taken, mend=mend)


class Settling(bootsteps.StartStopStep):  # type: ignore[misc]
    """Settlement runs from the first delivered message until the last result of the pool is settled."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._settlement: Settlement | None = None
        self._producer: EventProducer | None = None
        self._dead_letters: DeadLetters | None = None
        self._cancelled: CancelledJobs | None = None

    def start(self, consumer: Any) -> None:
        """Start it; at a reconnect it goes on as it is."""
        # The solo pool runs tasks on the event loop itself, which then gives no sign of life by design.
        inbound(consumer.app.settings).heartbeat.watches_loop = pool_name(consumer.pool) != "solo"
        # Timers end with a connection.
        consumer.hub.call_repeatedly(EVENTS_EVERY, consumer.flush_events)
        consumer.hub.call_repeatedly(timers.EVERY, timers.drop_cancelled, consumer.hub.timer)
        if self._settlement is not None:
            return
        settings, worker, patience = consumer.app.settings, consumer.hostname, Patience()
        receiving, store = inbound(settings), JobStore(settings)
        producer = EventProducer(settings, "worker")
        dispatch = Dispatch(settings, receiving.queue, patience)
        closer = Closer(settings, REGISTRY, store, producer, dispatch, patience)
        dead_letters = DeadLetters(settings, store, producer, closer, patience, worker)
        self._producer, self._dead_letters = producer, dead_letters
        self._settlement = Settlement(
            receiving,
            Effects(settings, REGISTRY, store, producer, dispatch, patience, worker),
            closer,
            Retries(settings, REGISTRY, receiving.disposal.give_back, store, patience, longest=LONGEST_HOLD),
            dead_letters,
            patience,
        )
        Request.settlement = self._settlement
        self._cancelled = CancelledJobs(store)
        self._cancelled.start()
        Request.cancelled_jobs = self._cancelled
        counting.begin(REGISTRY.by_name)
        metrics.at_scrape("held", lambda: show_held(receiving.intake.counts()))
        receiving.screen = Screen(settings, REGISTRY, store, patience)
        receiving.on_unrunnable = partial(self._settle_unrun, consumer)
        receiving.on_refused = stop_worker
        Request.pool_kills = pool_name(consumer.pool) not in LIMITLESS_POOLS

    def stop(self, consumer: Any) -> None:
        """The event loop ends, at a reconnect or for good; what the pool still runs stays ours."""
        inbound(consumer.app.settings).heartbeat.watches_loop = False
        consumer.flush_events()

    def shutdown(self, consumer: Any) -> None:
        """The pool has ended: settle its results, give back the rest, and let go."""
        if self._settlement is None:
            return
        if self._cancelled is not None:
            self._cancelled.close()
        if not self._settlement.close(SETTLE_TIMEOUT):
            log.warning("settlement.unfinished", **self._settlement.intake.counts())
        close_inbound(CLOSE_TIMEOUT)
        if self._producer is not None:
            self._producer.close(CLOSE_TIMEOUT)
        if self._dead_letters is not None:
            self._dead_letters.close()
        tracing.stop()

    def _settle_unrun(self, consumer: Any, lease: Lease) -> None:
        assert self._settlement is not None
        self._settlement.intake.finish(lease.tag)
        outcome = lease.verdict or Failed(
            error="pipeline.errors.InvalidInputError", message=lease.problem or "", permanent=True
        )
        events = consumer.event_dispatcher
        unrun = Unrun(lease, events.send if events else None)
        self._settlement.submit(Work(lease=lease, outcome=outcome, request=unrun))


def show_held(counts: Mapping[str, int]) -> None:
    """Set the gauges of what this worker holds."""
    for name, messages in counts.items():
        (metrics.LANES if name == "lanes" else metrics.HELD.labels(name)).set(messages)


def stop_worker(error: ServiceError) -> None:
    """A queue refuses this worker: it stops, with an exit code that says so, instead of idling for ever."""
    log.critical("worker.stopping", reason=str(error))
    state.should_stop = 1
