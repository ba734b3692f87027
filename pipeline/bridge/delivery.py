"""Delivery: the threads that empty the outbox. They open jobs, send tasks to SQS and bury rejections."""

import functools
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar

from pipeline.author.consumers import Consumer
from pipeline.bridge.consuming import fed_by
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.offsets import OffsetTracker
from pipeline.bridge.outbox import REJECTED, UNPLANNED, Entry, Outbox, task_entries
from pipeline.bridge.queuedepths import QueueDepths
from pipeline.bridge.rejects import Rejects
from pipeline.bridge.throttle import BufferUsage
from pipeline.bridge.translator import EventTasks, Rejection
from pipeline.errors import MessageRefusedError, ServiceError
from pipeline.jobs import JobStore
from pipeline.kafka import EventProducer, Partition
from pipeline.ledger import Ledger
from pipeline.patience import Abandoned, Patience
from pipeline.payloads import Payloads, shrinking
from pipeline.settings import Settings
from pipeline.sqs import OutgoingMessage, SqsQueue, sqs_client
from pipeline.telemetry import metrics
from pipeline.wire.plans import JobPlan

#: Seconds to wait for each thread's last call at the end; their own timeouts are shorter.
JOIN_TIMEOUT = 20.0

#: Batches sent at once. A round trip is about 10 ms, and back from it a thread waits some more for the one
#: that translates. Measured on 2 busy cores, at 0 ms: 8 send a quarter more than 4.
SEND_THREADS = 8

#: Entries of a batch: what one SQS request takes.
SEND_BATCH = 10

#: Batches of jobs opened at once: 10,000 jobs a second with a round trip of 10 ms.
OPEN_THREADS = 4


class Delivery:
    """Delivers a bridge's entries until closed. ``failure`` is set when it ended by itself.

    A bridge is given one. A subclass defines how an entry is delivered, and may hold entries back while
    partitions change hands.
    """

    #: Seconds that the end of the bridge waits for what is in flight. The rest is repeated.
    stop_wait: ClassVar[float] = 10.0
    #: Whether an event is delivered within seconds. One whose stages run here takes as long as they do.
    quick: ClassVar[bool] = True

    def __init__(
        self,
        outbox: Outbox,
        ledger: Ledger,
        rejects: Rejects,
        patience: Patience,
        producer: EventProducer,
        plans: KnownPlans,
        task_queue: str,
        *,
        threads: int,
    ) -> None:
        """``threads``: how many batches are delivered at once.

        ``task_queue``: the name of the queue of stages that name none.
        """
        self._plans = plans
        self._task_queue = task_queue
        self.tracker = OffsetTracker()
        self.usage = BufferUsage()
        self._outbox = outbox
        self._ledger = ledger
        self._producer = producer
        self._rejects = rejects
        self._patience = patience
        self._threads = [
            *(self._thread(f"bridge-delivery-{n}", outbox.take, self._handle) for n in range(threads)),
            *(
                self._thread(f"bridge-opening-{n}", outbox.take_unopened, self._open)
                for n in range(OPEN_THREADS)
            ),
        ]
        #: Why it ended by itself: a service refuses everything, or a bug.
        self.failure: Exception | None = None

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def put(self, entry: Entry) -> None:
        """Deliver an entry after those of its group."""
        if entry.begins_job:
            self._count_opening(entry, True)
        self._outbox.put(entry)

    def tick(self) -> None:
        """Do what is due; the bridge calls it many times a second."""

    def on_assigned(self, partitions: Collection[Partition]) -> None:
        """Prepare for the events of new partitions; called before the first of them is taken."""

    def deep_topics(self) -> Collection[str]:
        """Return the Kafka topics of which nothing more may be taken, because a queue is too deep."""
        return ()

    def drain(self, partitions: Collection[Partition], timeout: float) -> bool:
        """Wait until all that was taken of these partitions is settled; False when time ran out first."""
        return self.tracker.wait_settled(partitions, timeout)

    def resume(self) -> None:
        """Go on after a ``drain``: its partitions are given away."""

    def stop(self) -> None:
        """End what still runs here, before the partitions are given away for good."""

    def close(self) -> None:
        """End after the calls in flight; what still waits for a service is abandoned, and read again."""
        self._outbox.close()
        self._patience.end()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT)
        self._rejects.close()
        self._producer.close(5.0)

    def _deliver(self, entries: Sequence[Entry]) -> None:
        """Deliver tasks of one destination: each ends in ``_out``, ``_reject`` or the outbox."""
        raise NotImplementedError

    def _thread(
        self, name: str, take: Callable[[], list[Entry]], handle: Callable[[list[Entry]], None]
    ) -> threading.Thread:
        def run() -> None:
            try:
                while batch := take():
                    handle(batch)
            except Abandoned:
                pass
            except Exception as error:  # noqa: BLE001 - the bridge ends with it; nothing of it is committed
                self.failure = self.failure or error

        return threading.Thread(target=run, name=name, daemon=True)

    def _open(self, batch: Sequence[Entry]) -> None:
        """Open the jobs of entries, which may go then."""
        entries = self._kept(batch)
        opened = self._open_jobs(entries)
        for entry in entries:
            self._count_opening(entry, False)
        self._outbox.opened(opened)

    def _handle(self, batch: Sequence[Entry]) -> None:
        """Deliver entries of one destination."""
        entries = self._kept(batch)
        if batch[0].destination == REJECTED:
            self._rejects.bury([entry.content for entry in entries if isinstance(entry.content, Rejection)])
            self._out(entries)
        elif entries := self._planned(entries):
            self._deliver(entries)

    def _kept(self, batch: Sequence[Entry]) -> list[Entry]:
        """Return the entries whose partition is still this member's; the others are out."""
        lost = [entry for entry in batch if entry.held.ticket.lost]
        self._out(lost)
        return [entry for entry in batch if entry not in lost]

    def _planned(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the entries whose task is in its job's pinned plan; replace the others by those that are."""
        doubtful = {
            entry: entry.content
            for entry in entries
            if isinstance(entry.content, EventTasks)
            and not entry.content.is_certain
            and (entry.content.job is None or entry.existed)
        }
        if not doubtful:
            return list(entries)
        pinned = self._ledger.jobs({content.job_id for content in doubtful.values()})
        planned = []
        for entry in entries:
            if entry not in doubtful:
                planned.append(entry)
                continue
            content = doubtful[entry]
            job = pinned.get(content.job_id)
            if content.job is not None and job is not None and job.topic != content.topic:
                self._set_apart(entry, content)
            elif replanned := self._replan(entry, content, job.plan if job else None):
                planned.append(replanned)
        return planned

    def _set_apart(self, entry: Entry, content: EventTasks) -> None:
        """Give an entry's event, which began its job on another topic too, a job of its own on this one.

        The plan of the other topic has no place for it. The threads that open jobs take the entry, as those
        that send tasks must not wait for the table.
        """
        assert content.plan is not None
        routes = [route for route, _ in content.tasks]
        apart = content.apart().under(content.plan, routes, is_certain=False)
        made = task_entries(entry.held, apart, self._task_queue)
        (entry.task,) = (each.task for each in made if each.stage == entry.stage)
        entry.content = apart
        self._count_opening(entry, True)
        self._outbox.reopen(entry)

    def _replan(self, entry: Entry, content: EventTasks, plan: JobPlan | None) -> Entry | None:
        """Return the entry under its job's plan; None where it is replaced by others, or by none.

        The first entry of an event stands for the stages that only the pinned plan has.
        """
        if plan is None:
            # Its record expired, or never was: the current deployment's stages.
            plan = self._plans.beginning(content.topic)
        replanned = content.under(plan, self._plans.routes(plan, content.topic))
        made = task_entries(entry.held, replanned, self._task_queue)
        if entry.destination == UNPLANNED:
            entry.held.share(len(made))
            self._outbox.replace(entry, made)
            self._release(entry)
            return None
        known = [route.name for route, _ in content.tasks]
        if entry.stage == known[0]:
            added = [each for each in made if each.stage not in known]
            entry.held.share(len(added))
            for each in added:
                self.put(each)
        for each in made:
            if each.stage == entry.stage:
                entry.content, entry.task = each.content, each.task
                return entry
        self._out([entry])
        return None

    def _open_jobs(self, entries: Sequence[Entry]) -> list[Entry]:
        """Open the jobs that entries begin, before a task can be done or an event committed.

        Reject an event whose job the table refuses for what is in its record; return the other entries.
        """
        beginning = [(entry, entry.content.job) for entry in entries if entry.content.job]
        opened = self._ledger.open([job for _, job in beginning])
        first_topics: dict[str, str] = {}
        for entry, job in beginning:
            # Of a job that two topics begin in this batch, the first has its plan.
            topic = first_topics.setdefault(job.job_id, job.topic)
            entry.existed = job.job_id in opened.existing or topic != job.topic
        refused = {}
        for (entry, _), error in zip(beginning, opened.errors, strict=True):
            if isinstance(error, MessageRefusedError) and isinstance(entry.content, EventTasks):
                refused[entry] = entry.content.reject(entry.stage, type(error).__name__, str(error))
            elif error is not None and not isinstance(error, MessageRefusedError):
                raise error
        for entry, rejection in refused.items():
            self._reject(entry, rejection)
        return [entry for entry in entries if entry not in refused]

    def _reject(self, entry: Entry, rejection: Rejection) -> None:
        """Bury an entry's event, as one that cannot become a task; its group goes on behind it."""
        entry.held.span.fail(rejection.error, rejection.message)
        self._outbox.put(Entry(held=entry.held, content=rejection, destination=REJECTED))
        self._outbox.out([entry])

    def _out(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._release(entry)
        self._outbox.out(entries)

    def _release(self, entry: Entry) -> None:
        """Settle the entry's event if this was the last of its entries."""
        if entry.held.release():
            entry.held.span.end()
            self._count_opening(entry, False)
            self.tracker.settle(entry.held.ticket)
            self.usage.remove(entry.held.size)

    def _count_opening(self, entry: Entry, opening: bool) -> None:
        """Count an entry's event as one that waits for its job to be opened, or no longer."""
        held = entry.held
        if held.set_opening(opening):
            count = self.usage.begin_opening if opening else self.usage.end_opening
            count(held.ticket.partition, held.size)


class SqsDelivery(Delivery):
    """Sends tasks to SQS in batches; an entry is out when SQS has its task."""

    def __init__(
        self,
        queue_named: Callable[[str], SqsQueue],
        outbox: Outbox,
        ledger: Ledger,
        rejects: Rejects,
        patience: Patience,
        producer: EventProducer,
        plans: KnownPlans,
        task_queue: str,
        depths: QueueDepths,
    ) -> None:
        super().__init__(
            outbox,
            ledger,
            rejects,
            patience,
            producer,
            plans,
            task_queue,
            threads=SEND_THREADS,
        )
        self._queue_named = queue_named
        self._depths = depths

    @classmethod
    def make(
        cls, settings: Settings, plans: KnownPlans, consumers: Iterable[Consumer[Any, Any]] = ()
    ) -> "SqsDelivery":
        """Return the delivery of a service's bridge."""
        patience, producer, client = Patience(), EventProducer(settings, "bridge"), sqs_client(settings)
        ledger = Ledger(settings, JobStore(settings), producer, patience)
        fed = fed_by(settings, consumers)
        rejects = Rejects(settings, plans, ledger, fed)
        shrink = shrinking(Payloads(settings))
        queue_named = functools.cache(lambda name: SqsQueue(client, settings.queue_url(name), shrink))
        return cls(
            queue_named,
            Outbox(SEND_BATCH),
            ledger,
            rejects,
            patience,
            producer,
            plans,
            settings.task_queue,
            QueueDepths(settings, plans, queue_named, fed),
        )

    def start(self) -> None:
        """Start the threads, and the one that asks how deep the queues are."""
        self._depths.start()
        super().start()

    def close(self) -> None:
        """End them."""
        self._depths.close()
        super().close()

    def deep_topics(self) -> Collection[str]:
        """Return the Kafka topics that feed a queue that is too deep."""
        return self._depths.deep_topics

    def _deliver(self, entries: Sequence[Entry]) -> None:
        queue = self._queue_named(entries[0].destination)
        messages = {entry: OutgoingMessage(**entry.task.to_sqs()) for entry in entries if entry.task}

        def send(batch: list[Entry]) -> list[ServiceError | None]:
            answers = queue.send([messages[entry] for entry in batch])
            taken = [entry for entry, error in zip(batch, answers, strict=True) if error is None]
            # At once, so that those that SQS took do not wait for those to be sent again.
            self._out(taken)
            _count(batch, taken)
            return answers

        for entry, error in zip(entries, self._patience.each("task queue", entries, send), strict=True):
            if isinstance(error, MessageRefusedError) and isinstance(entry.content, EventTasks):
                # SQS will never take this task.
                self._reject(entry, entry.content.reject(entry.stage, type(error).__name__, str(error)))
            elif error is not None:
                raise error


def _count(batch: Sequence[Entry], taken: Sequence[Entry]) -> None:
    metrics.SEND_ENTRIES.observe(len(batch))
    metrics.TASKS_SENT.labels(batch[0].destination).inc(len(taken))
    now = time.time()
    for entry in taken:
        metrics.EVENT_SECONDS.observe(max(0.0, now - entry.content.record.timestamp_ms / 1000))
