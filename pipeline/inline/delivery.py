"""Delivery without SQS: runs the stages of events in child processes of the bridge."""

import time
from collections.abc import Collection, Sequence

from pipeline.author.registry import Registry
from pipeline.bridge.delivery import Delivery
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.outbox import Entry
from pipeline.bridge.rejects import Rejects
from pipeline.bridge.translator import EventTasks
from pipeline.infra.needs import topics_of_others
from pipeline.inline.children import Children
from pipeline.inline.queuedrain import QueueDrain
from pipeline.inline.runqueue import RunQueue
from pipeline.inline.runtime import InlineRuntime
from pipeline.inline.stagerun import Again, StageRun
from pipeline.jobs import JobStore
from pipeline.kafka import EventProducer, Partition
from pipeline.patience import Abandoned, Patience
from pipeline.settings import Settings
from pipeline.sqs import sqs_client
from pipeline.telemetry import metrics

#: How many events of an assignment may have been started before, by a process that ended: the uncommitted
#: span (``throttle.MAX_SPAN``), and what one poll more may bring.
MAYBE_STARTED = 1_500


class InlineDelivery(Delivery):
    """An entry is out when its event has run in its stage to the end, or is a dead letter.

    An entry that is to be retried goes back to the run queue, and its group waits behind it there.
    """

    #: Kubernetes kills after 30.
    stop_wait = 25.0
    #: What is repeated is looked up, however late, so an event may stay uncommitted for long.
    quick = False

    def __init__(
        self,
        runtime: InlineRuntime,
        run_queue: RunQueue,
        rejects: Rejects,
        producer: EventProducer,
        drain: QueueDrain,
        plans: KnownPlans,
    ) -> None:
        """``drain``: nothing of new partitions begins before it is done."""
        super().__init__(
            run_queue,
            runtime.ledger,
            rejects,
            runtime.patience,
            producer,
            plans,
            runtime.settings.task_queue,
            threads=runtime.children.processes,
        )
        self._run_queue = run_queue
        self._runtime = runtime
        self._queue_drain = drain
        self._runs: dict[Entry, StageRun] = {}

    @classmethod
    def make(
        cls, settings: Settings, registry: Registry, children: Children, plans: KnownPlans
    ) -> "InlineDelivery":
        """Return the delivery of a service's bridge that runs stages itself."""
        store, patience, producer = JobStore(settings), Patience(), EventProducer(settings, "bridge")
        runtime = InlineRuntime(settings, registry, store, producer, children, patience)
        others = topics_of_others(settings, registry)
        rejects = Rejects(settings, plans, runtime.ledger, others)
        names = {stage.queue or settings.task_queue for stage in registry.by_name.values()}
        drain = QueueDrain(sqs_client(settings), [settings.queue_url(name) for name in names])
        return cls(runtime, RunQueue(), rejects, producer, drain, plans)

    def start(self) -> None:
        """Start to run events and to read which jobs are cancelled."""
        self._runtime.cancelled_jobs.start()
        super().start()

    def tick(self) -> None:
        """Begin the events of new partitions once nothing that was sent to SQS can be left there."""
        if self._run_queue.parked and self._queue_drain.is_done():
            self._run_queue.unpark()

    def on_assigned(self, partitions: Collection[Partition]) -> None:
        """Withhold the events of new partitions while the queues may still hold tasks of theirs."""
        if partitions:
            # Those that stay cannot have tasks there: only the bridge that has a partition sends its tasks.
            self._run_queue.park(partitions)
            self._queue_drain.restart()

    def drain(self, partitions: Collection[Partition], timeout: float) -> bool:
        """Begin nothing more until ``resume``, and wait for what runs of these partitions.

        The rest would take too long: it is begun again where the partitions go, or at the next start.
        """
        self._run_queue.hold()
        return self._run_queue.wait_returned(partitions, timeout)

    def resume(self) -> None:
        """Begin events again."""
        self._run_queue.resume()

    def stop(self) -> None:
        """End the children, whatever they run: it is run again, and no attempt is counted."""
        self._runtime.children.end()

    def close(self) -> None:
        """End the children too."""
        self._runtime.cancelled_jobs.close()
        self.stop()
        super().close()

    def _deliver(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.stage in self._runtime.registry.by_name:
                self._proceed(entry)
            else:
                assert isinstance(entry.content, EventTasks)
                why = "no module in TASK_MODULES defines it: redrive the event where one does"
                self._reject(entry, entry.content.reject(entry.stage, "UnknownStage", why))

    def _proceed(self, entry: Entry) -> None:
        run = self._runs.get(entry) or self._begin(entry)
        try:
            result = run.proceed()
        except Abandoned:
            if not entry.held.ticket.lost:
                raise
            self._out([entry])
            return
        if isinstance(result, Again):
            self._run_queue.retry(entry, result.seconds)
        elif result.failure is None:
            self._out([entry])
        else:
            self._runs.pop(entry, None)
            failure = result.failure
            assert isinstance(entry.content, EventTasks)
            self._reject(
                entry,
                entry.content.reject(
                    entry.stage,
                    failure.error,
                    failure.message,
                    attempts=result.attempts,
                    traceback=failure.traceback,
                ),
            )

    def _begin(self, entry: Entry) -> StageRun:
        assert entry.task is not None
        ticket = entry.held.ticket
        metrics.EVENT_SECONDS.observe(max(0.0, time.time() - entry.content.record.timestamp_ms / 1000))
        run = StageRun(
            self._runtime,
            entry.task,
            entry.destination,
            mark=ticket.number < MAYBE_STARTED,
            is_lost=lambda: ticket.lost,
        )
        self._runs[entry] = run
        return run

    def _out(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._runs.pop(entry, None)
        super()._out(entries)
