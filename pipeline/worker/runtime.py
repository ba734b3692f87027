"""The runtime of a worker process: its task source, its settlement, and what is asked before each run."""

from collections.abc import Callable, Mapping
from functools import partial

import structlog
from celery import signals
from celery.worker import state

from pipeline.author.registry import Registry
from pipeline.errors import InvalidInputError, ServiceError
from pipeline.jobs import JobStore
from pipeline.kafka import OrderedProducer
from pipeline.ledger import Dispatch, Ledger
from pipeline.patience import Patience
from pipeline.settings import Settings
from pipeline.telemetry import metrics
from pipeline.transport.lease import LONGEST_HOLD, Lease
from pipeline.transport.source import Hooks, close_task_source, open_task_source
from pipeline.wire.redaction import redact
from pipeline.worker.cancelled import CancelledJobs
from pipeline.worker.celerychecks import LIMITLESS_POOLS
from pipeline.worker.child.outcome import MESSAGE_LIMIT, Failed, Outcome
from pipeline.worker.errbacks import publish_errbacks
from pipeline.worker.lookup import Lookup
from pipeline.worker.loops import LoopPool
from pipeline.worker.sample import Sample
from pipeline.worker.settle.chords import Chords
from pipeline.worker.settle.completion import Completion, Recorder
from pipeline.worker.settle.deadletter import DeadLetters
from pipeline.worker.settle.emit import Emitter
from pipeline.worker.settle.plans import Plans
from pipeline.worker.settle.results import ResultRecorder
from pipeline.worker.settle.retry import Retries
from pipeline.worker.settle.settlement import Settlement
from pipeline.worker.settle.taskevents import EventSender, SendEvent
from pipeline.worker.settle.work import Work, start_counting
from pipeline.worker.taskcounts import TaskCounts

log = structlog.get_logger(__name__)

#: Seconds that a stopping worker waits for settlement, and then for the queue.
SETTLE_TIMEOUT, CLOSE_TIMEOUT = 30.0, 10.0


class WorkerRuntime:
    """All that a worker has beside Celery. Made once, after the pool has forked; reconnects keep it."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        *,
        node_name: str,
        pool: str,
        event_sender: Callable[[], SendEvent | None],
        loops: LoopPool | None,
    ) -> None:
        """``pool`` is the pool's name; ``event_sender`` returns what sends task events at the moment.

        ``loops``: the loop children, where the worker has some.
        """
        self._event_sender = event_sender
        #: the jobs whose task events are sent, and the counters of all tasks
        self.sample = Sample(settings.events_tasks_per_second)
        self.counts = TaskCounts()
        #: the solo pool runs tasks on the event loop itself, which then gives no sign of life by design
        self._watches_loop = pool != "solo"
        #: the hard time limit of a task without one of its own (seconds)
        self.time_limit = settings.task_time_limit
        #: whether the pool ends a run at its time limits
        self.pool_kills = pool not in LIMITLESS_POOLS
        patience, store = Patience(), JobStore(settings)
        self.source = open_task_source(
            settings,
            Hooks(
                look_up=Lookup(settings, registry, store, patience, loops.tasks if loops else ()),
                end_unrun=self._end_unrun,
                on_refused=stop_worker,
            ),
        )
        self.intake = self.source.intake
        if loops is not None:
            self.intake.use_loops(loops.slots, loops.kinds)
        #: the loop children; None where no task is async, and in pools of threads
        self.loops = loops
        self._producer = OrderedProducer(settings, "worker")
        dispatch = Dispatch(settings, registry, self.source.queue, patience)
        ledger = Ledger(settings, store, self._producer, patience, dispatch)
        plans = Plans(registry, ledger)
        results, chords = ResultRecorder(store.results, patience), Chords(store.chords, patience)
        self._dead_letters = DeadLetters(settings, ledger, chords, patience, node_name)
        give_back = self.source.disposal.give_back
        self._settlement = Settlement(
            self.source,
            Completion(
                Emitter(settings, registry, plans, store, ledger, dispatch, patience),
                Recorder(plans, ledger, node_name),
                ledger,
            ),
            Retries(
                settings,
                registry,
                give_back,
                store.attempts,
                patience,
                longest=LONGEST_HOLD,
                on_retry=results.retry,
            ),
            self._dead_letters,
            chords,
            results,
            patience,
            on_dead_letter=publish_errbacks,
            record_markers=store.markers.record,
            is_strict=partial(is_strict, registry),
        )
        #: the ids of jobs of which no task is started any more
        self.cancelled_jobs = CancelledJobs(store)
        self.cancelled_jobs.start()
        start_counting(registry.by_name)
        metrics.at_scrape("held", lambda: show_held(self.intake.counts()))

    def watch_loop(self, on: bool) -> None:
        """Expect signs of life of the event loop from now on, or no more."""
        self.source.heartbeat.watches_loop = on and self._watches_loop

    def settle(self, work: Work) -> None:
        """Settle a task that has ended. Returns at once; safe from any thread."""
        self._settlement.submit(work)

    def end(self, tag: str, outcome: Callable[[Lease], Outcome], *, known: bool = True) -> None:
        """End the message delivered as ``tag`` without a run; ``known``: the code defines its task."""
        lease = self.intake.finish(tag)
        if lease is not None:
            events = EventSender(lease, self._event_sender(), self.sample, self.counts, known=known)
            self.settle(Work(lease=lease, outcome=outcome(lease), request=events))

    def close(self) -> None:
        """Settle what the pool has run, give back the rest, and end all threads. The pool has ended."""
        self.cancelled_jobs.close()
        if not self._settlement.close(SETTLE_TIMEOUT):
            log.warning("settlement.unfinished", **self.intake.counts())
        close_task_source(CLOSE_TIMEOUT)
        self._producer.close(CLOSE_TIMEOUT)
        self._dead_letters.close()

    def _end_unrun(self, lease: Lease) -> None:
        if lease.problem is not None:
            error = InvalidInputError(lease.problem)
            signals.task_rejected.send(sender=self, message=lease.message, exc=error)
        self.end(lease.tag, lambda lease: lease.verdict or refusal(lease))


def is_strict(registry: Registry, lease: Lease) -> bool:
    """Whether the next task of a message's group starts only when this one is recorded."""
    stage = registry.by_name.get(lease.header.stage) if lease.header else None
    return stage is not None and stage.strict


def refusal(lease: Lease) -> Failed:
    """Return the failure of a message that is no task, or one that nobody can run."""
    # It may quote the message.
    message = redact(lease.problem or "")[:MESSAGE_LIMIT]
    return Failed(error="pipeline.errors.InvalidInputError", message=message, permanent=True)


def show_held(counts: Mapping[str, int]) -> None:
    """Set the gauges of what this worker holds."""
    for name, messages in counts.items():
        (metrics.LANES if name == "lanes" else metrics.HELD.labels(name)).set(messages)


def stop_worker(error: ServiceError) -> None:
    """Stop the worker with an exit code that says so: a queue refuses it, and it would idle for ever."""
    log.critical("worker.stopping", reason=str(error))
    state.should_stop = 1
