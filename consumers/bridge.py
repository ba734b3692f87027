"""The bridge: from Kafka events to SQS tasks, committing an offset only when all before it are on their way.

One thread polls, steers and commits; a few send (``senders.py``). It runs no user code. A crash anywhere
repeats events, and their tasks have the same ids as the first time.

Given children, it sends nothing: the few see each event through in those (``runners.py``), and an offset is
committed only when nothing is left of all before it.
"""

import functools
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import structlog

from config.settings import Settings
from consumers.emptied import Emptied
from consumers.gauges import Gauges
from consumers.hands import Hands
from consumers.load import Load
from consumers.offsets import OffsetTracker
from consumers.outbox import Outbox, SharedTicket
from consumers.rejects import Rejects
from consumers.runners import Runners
from consumers.senders import Senders
from consumers.throttle import Throttle
from consumers.translator import Translator
from pipeline.errors import ConfigurationError, ServiceError, ServiceRefusedError
from pipeline.jobs import JobStore
from pipeline.kafka import EventConsumer, EventProducer, Message, Partition
from pipeline.patience import Patience
from pipeline.registry import Registry
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.telemetry import metrics
from pipeline.worker.children import Children
from pipeline.worker.running import Running

log = structlog.get_logger(__name__)

#: Messages of one poll, and the longest wait for the first (seconds): how late a commit or a stop may be.
POLL_MESSAGES, POLL_SECONDS = 500, 0.2

#: Seconds until the next look where no more may be taken: a few hundred events are sent in it at most.
FULL_SECONDS = 0.05

#: Seconds between commits, and where a partition is half way to its span (``throttle.MAX_SPAN``).
COMMIT_EVERY, COMMIT_SOON = 1.0, 0.1

#: Seconds that a rebalance, and a stop, wait for what is in flight. What is not out then is repeated.
REVOKE_WAIT, STOP_WAIT = 10.0, 10.0

#: Seconds that a stop waits for what children run: Kubernetes kills after 30.
STOP_WAIT_RUNNING = 25.0

#: Seconds after the start in which a refusal of Kafka may still pass: a new topic reaches brokers one by one.
GRACE, GRACE_PAUSE = 30.0, 2.0

#: Seconds between two lines that say how much went through.
REPORT_EVERY = 30.0


class Bridge:
    """Runs until told to stop."""

    def __init__(self, settings: Settings, registry: Registry, children: Children | None = None) -> None:
        """With ``children`` the stages run in them, and nothing is sent to SQS."""
        self._settings = settings
        self._translator = Translator(settings, registry)
        if not self._translator.topics:
            raise ConfigurationError(
                f"No stage in TASK_MODULES ({', '.join(settings.task_modules)}): there is nothing to consume."
            )
        self._tracker = OffsetTracker()
        self._load = Load()
        self._producer = EventProducer(settings, "bridge")
        store, patience = JobStore(settings), Patience()
        rejects = Rejects(settings, registry, store, self._producer, patience)
        client = sqs_client(settings)
        names = {stage.queue or settings.task_queue for stage in registry.by_name.values()}
        self._hands: Hands
        self._emptied: Emptied | None = None
        if children is None:
            self._outbox = Outbox()
            queue = functools.cache(lambda name: SqsQueue(client, settings.queue_url(name)))
            self._hands = Senders(queue, self._outbox, self._tracker, self._load, store, rejects, patience)
            self._throttle = Throttle([queue(name) for name in names], self._tracker, self._load)
        else:
            self._outbox = Outbox(every_group=True)
            running = Running(settings, registry, store, self._producer, children, patience)
            self._hands = Runners(running, self._outbox, self._tracker, self._load, rejects)
            # What is repeated is looked up, however late: only how much it is counts.
            self._throttle = Throttle([], self._tracker, self._load, max_age=math.inf)
            self._emptied = Emptied(client, [settings.queue_url(name) for name in names])
        self._stop_wait = STOP_WAIT if children is None else STOP_WAIT_RUNNING
        self._gauges = Gauges(self._tracker, self._load, self._translator.topics, ages=children is None)
        self._stop = threading.Event()
        self._committed_at = 0.0
        self._next_report = 0.0

    def run(self, stop: threading.Event) -> None:
        """Bridge until ``stop`` is set; then see what is in flight out, commit, and leave the group.

        Raises the ServiceRefusedError of a service that takes nothing: all is as after a crash then.
        """
        self._stop = stop
        self._hands.start()
        self._throttle.start()
        metrics.at_scrape("bridge", self._gauges.show)
        try:
            self._consume_with_patience(time.monotonic() + GRACE)
        finally:
            self._throttle.close()
            self._hands.close()
            self._producer.close(5.0)
        if self._hands.failure:
            raise self._hands.failure

    def _consume_with_patience(self, graceful_until: float) -> None:
        while not self._stop.is_set():
            try:
                self._consume()
                return
            except ServiceRefusedError as error:
                if time.monotonic() > graceful_until:
                    raise
                log.warning("bridge.refused", error=str(error))
                # Not stop.wait: the signal handler, on this same thread, would wait for the lock inside.
                time.sleep(GRACE_PAUSE)

    def _consume(self) -> None:
        """As one member of the group, until told to stop or something fails."""
        self._consumer = EventConsumer(
            self._settings,
            list(self._translator.topics),
            self._settings.kafka_consumer_group,
            on_assigned=self._on_assigned,
            on_revoked=self._on_revoked,
            on_lost=self._on_lost,
        )
        log.info("bridge.started", topics=sorted(self._translator.topics))
        try:
            while not self._stop.is_set() and self._hands.failure is None:
                self._throttle.apply(self._consumer)
                if self._throttle.full:
                    time.sleep(FULL_SECONDS)
                else:
                    self._take_all(self._consumer.poll(POLL_MESSAGES, POLL_SECONDS))
                self._unpark_when_emptied()
                self._commit_when_due()
                self._report_when_due()
            self._see_out()
        finally:
            # Before closing: the callback inside would wait for senders that may be gone.
            self._tracker.revoke(self._tracker.partitions())
            self._consumer.close()
            log.info("bridge.stopped", events=self._load.passed)

    def _unpark_when_emptied(self) -> None:
        """Begin what came of new partitions once nothing that was sent to SQS can be left there."""
        if self._emptied and self._outbox.parked and self._emptied.answer():
            self._outbox.unpark()

    def _take_all(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._take(message)
        for topic, polled in Counter(message.topic for message in messages).items():
            metrics.EVENTS_POLLED.labels(topic).inc(polled)

    def _take(self, message: Message) -> None:
        ticket = self._tracker.take(Partition(message.topic, message.partition), message.offset)
        if ticket is None:
            return
        size = len(message.value or b"") + len(message.key or b"")
        self._load.add(size)
        for entry in self._translator.translate(message, SharedTicket(ticket, size)):
            self._outbox.put(entry)

    def _commit_when_due(self) -> None:
        since = time.monotonic() - self._committed_at
        if since >= (COMMIT_SOON if self._throttle.wants_commit() else COMMIT_EVERY):
            self._committed_at = time.monotonic()
            self._gauges.note(self._consumer.unread())
            self._commit(self._tracker.partitions())

    def _commit(self, partitions: Iterable[Partition]) -> None:
        committable = self._tracker.committable()
        offsets = {partition: committable[partition] for partition in partitions if partition in committable}
        try:
            self._consumer.commit(offsets)
        except ServiceError as error:
            # Later; what is not committed is repeated, never lost.
            log.warning("bridge.commit_failed", error=str(error))
        else:
            self._tracker.committed(offsets)

    def _see_out(self) -> None:
        partitions = self._tracker.partitions()
        if self._hands.failure is None and not self._hands.drain(partitions, self._stop_wait):
            log.warning("bridge.unfinished", repeated=sum(map(self._tracker.span, partitions)))
        self._commit(partitions)
        self._hands.end_runs()

    def _on_assigned(self, partitions: list[Partition]) -> None:
        log.info("bridge.assigned", partitions=_names(partitions))
        if self._emptied and partitions:
            # Those that stay cannot have tasks there: only the bridge that has a partition sends its tasks.
            self._outbox.park(partitions)
            self._emptied.ask()
        self._tracker.assign(partitions)
        self._throttle.forget(partitions)

    def _on_revoked(self, partitions: list[Partition]) -> None:
        """They are still this member's while this runs: the next one shall repeat as little as possible."""
        held = [partition for partition in partitions if partition in self._tracker.partitions()]
        if held:
            self._hands.drain(held, REVOKE_WAIT)
            self._commit(held)
        log.info("bridge.revoked", partitions=_names(partitions))
        self._tracker.revoke(partitions)
        self._throttle.forget(partitions)
        if held:
            self._outbox.go_on()

    def _on_lost(self, partitions: list[Partition]) -> None:
        """Another member has them already: nothing of them may be committed."""
        log.warning("bridge.lost", partitions=_names(partitions))
        self._tracker.revoke(partitions)
        self._throttle.forget(partitions)

    def _report_when_due(self) -> None:
        now = time.monotonic()
        if now < self._next_report:
            return
        self._next_report = now + REPORT_EVERY
        spans = {p: span for p in self._tracker.partitions() if (span := self._tracker.span(p))}
        if spans:
            log.info("bridge.progress", events=self._load.passed, uncommitted=sum(spans.values()))


def _names(partitions: Iterable[Partition]) -> list[str]:
    return [f"{partition.topic}[{partition.number}]" for partition in sorted(partitions)]
