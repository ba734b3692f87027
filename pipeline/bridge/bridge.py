"""The bridge: polls events, hands their tasks to a delivery, and commits what is delivered.

One thread polls, runs consumers and commits; the delivery has threads of its own. No other user code runs
here. An offset is committed only when everything before it is delivered. A crash anywhere repeats events, and
their tasks have the same ids as the first time.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog

from pipeline.author.consumers import Consumer
from pipeline.bridge.backlog import Backlog
from pipeline.bridge.consuming import Consuming
from pipeline.bridge.delivery import Delivery
from pipeline.bridge.gauges import Gauges
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.offsets import Ticket
from pipeline.bridge.outbox import entries_of
from pipeline.bridge.pulse import Pulse
from pipeline.bridge.throttle import MAX_AGE, Throttle
from pipeline.bridge.translator import EventTasks, Rejection, Translator
from pipeline.errors import ServiceError, ServiceRefusedError
from pipeline.kafka import EventConsumer, Partition, ReceivedRecord, Restart
from pipeline.registry.contents import Contents
from pipeline.settings import Settings
from pipeline.telemetry import metrics

log = structlog.get_logger(__name__)

#: Records of one poll, and the longest wait for the first (seconds): how late a commit or a stop may be.
POLL_RECORDS, POLL_SECONDS = 500, 0.2

#: Seconds until the limits are looked at again where no more may be taken: at most a few hundred events are
#: delivered in that time.
FULL_SECONDS = 0.05

#: Seconds that taking what was polled may last before the next turn: how late a commit, a stop or a poll may
#: be where consumers run long.
TURN_SECONDS = 1.0

#: Seconds between commits, and where a partition is half way to its span (``throttle.MAX_SPAN``).
COMMIT_EVERY, COMMIT_SOON = 1.0, 0.1

#: Seconds to wait for the answer to the last commit; it takes milliseconds, or a coordinator's move.
COMMIT_TIMEOUT = 10.0

#: Seconds that a rebalance waits for what is in flight. What is not delivered then is repeated.
REVOKE_WAIT = 10.0

#: Seconds after the start in which a refusal of Kafka may still pass: a new topic reaches brokers one by one.
GRACE, GRACE_PAUSE = 30.0, 2.0

#: The log event of each reason to read a partition from its first record (``kafka.Restart``).
RESTARTS = {
    "expired": "bridge.events_expired",
    "replaced": "bridge.topic_replaced",
    "truncated": "bridge.partition_truncated",
}

#: Seconds between two log lines about the progress.
REPORT_EVERY = 30.0


class Bridge:
    """One member of the service's consumer group, from its start until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        plans: KnownPlans,
        topics: Iterable[str],
        delivery: Delivery,
        pulse: Pulse,
        consumers: Iterable[Consumer[Any, Any]] = (),
    ) -> None:
        """``topics``: the logical names of those of stages. The bridge starts and closes ``delivery``."""
        self._settings = settings
        self._consuming = Consuming(settings, consumers)
        self._contents = Contents(settings)
        self._translator = Translator(settings, plans, topics, self._consuming, contents=self._contents)
        self._backlog = Backlog()
        self._delivery = delivery
        self._tracker, self._usage = delivery.tracker, delivery.usage
        self._throttle = Throttle(
            delivery.deep_topics,
            self._tracker,
            self._usage,
            max_age=MAX_AGE if delivery.quick else math.inf,
            backlog=self._backlog,
        )
        self._gauges = Gauges(self._tracker, self._usage, self._translator.topics, ages=delivery.quick)
        self._pulse = pulse
        pulse.held_up = self._consuming.running
        self._stop = threading.Event()
        self._asked_at = 0.0
        self._next_report = 0.0

    def run(self, stop: threading.Event) -> None:
        """Bridge until ``stop`` is set; then wait for what is in flight, commit, and leave the group.

        Raises the ServiceRefusedError of a service that takes nothing: the state is as after a crash then.
        """
        self._stop = stop
        self._delivery.start()
        self._consuming.start()
        self._contents.start()
        metrics.at_scrape("bridge", self._gauges.show)
        try:
            self._consume_with_patience(time.monotonic() + GRACE)
        finally:
            self._pulse.stop()
            self._consuming.close()
            self._contents.close()
            self._delivery.close()
        if self._delivery.failure:
            raise self._delivery.failure

    def _consume_with_patience(self, graceful_until: float) -> None:
        while not self._stop.is_set() and self._delivery.failure is None:
            try:
                self._consume()
            except ServiceRefusedError as error:
                if time.monotonic() > graceful_until:
                    raise
                log.warning("bridge.refused", error=str(error))
                # Not stop.wait: the signal handler, on this same thread, would wait for the lock inside.
                time.sleep(GRACE_PAUSE)

    def _consume(self) -> None:
        """Consume as one member of the group, until stopped, stuck, or something fails."""
        self._consumer = EventConsumer(
            self._settings,
            list(self._translator.topics),
            self._settings.kafka_consumer_group,
            on_assigned=self._on_assigned,
            on_revoked=self._on_revoked,
            on_lost=self._on_lost,
            on_restarted=self._on_restarted,
            on_committed=self._on_committed,
        )
        log.info("bridge.started", topics=sorted(self._translator.topics))
        try:
            while not self._stop.is_set() and self._delivery.failure is None:
                self._throttle.apply(self._consumer)
                self._poll()
                self._take_all()
                self._delivery.tick()
                self._commit_when_due()
                self._report_when_due()
                self._pulse.beat(self._consumer.unanswered())
                if stuck := self._consumer.stuck():
                    self._leave(stuck)
                    return
            self._finish()
        finally:
            # Before closing: the callback inside would wait for a delivery that may have ended.
            self._forget(self._tracker.partitions())
            self._consumer.close()
            log.info("bridge.stopped", events=self._usage.passed)

    def _poll(self) -> None:
        """Poll what may be taken now, or as good as nothing."""
        if self._throttle.full or self._usage.is_full():
            time.sleep(FULL_SECONDS)
        if self._throttle.full or self._backlog:
            # The answer to a commit, which may make room, comes in a poll; and who polls stays a member.
            records = self._consumer.poll(1, 0)
        else:
            records = self._consumer.poll(POLL_RECORDS, POLL_SECONDS)
        self._backlog.add(records, self._consumer.take_ends())
        for topic, polled in Counter(record.topic for record in records).items():
            metrics.EVENTS_POLLED.labels(topic).inc(polled)

    def _take_all(self) -> None:
        """Take what was polled, as far as there is room and time."""
        until = time.monotonic() + TURN_SECONDS
        for record in self._backlog.take(self._contents.is_ready):
            self._take(record)
            if self._usage.is_full() or time.monotonic() > until:
                break
        self._tracker.reach(self._backlog.take_ends())

    def _take(self, record: ReceivedRecord) -> None:
        ticket = self._tracker.take(Partition(record.topic, record.partition), record.offset)
        if ticket is None:
            return
        contents = self._translator.translate(record)
        if not contents:
            self._tracker.settle(ticket)
            return
        self._tracker.divide(ticket, len(contents))
        size = len(record.value or b"") + len(record.key or b"")
        for content in contents:
            self._put(content, ticket, size // len(contents) + content.made_bytes)

    def _put(self, content: EventTasks | Rejection, ticket: Ticket, size: int) -> None:
        """Hand one event of a record to the delivery; ``size``: bytes held for it."""
        settings = self._settings
        self._usage.add(size)
        entries = entries_of(content, ticket, size, settings.kafka_consumer_group, settings.task_queue)
        for entry in entries:
            self._delivery.put(entry)
        if not entries:
            # No stage of its job reads the topic.
            self._tracker.settle(ticket)
            self._usage.remove(size)

    def _commit_when_due(self) -> None:
        since = time.monotonic() - self._asked_at
        if since < (COMMIT_SOON if self._throttle.wants_commit() else COMMIT_EVERY):
            return
        self._asked_at = time.monotonic()
        self._gauges.note(self._consumer.unread())
        unanswered = self._consumer.unanswered()
        if not unanswered:
            self._commit(self._tracker.partitions())
        elif unanswered > COMMIT_TIMEOUT:
            log.warning("bridge.commit_failed", error=f"No answer in {COMMIT_TIMEOUT:g} s, still waiting")

    def _commit(self, partitions: Iterable[Partition]) -> None:
        committable = self._tracker.committable()
        self._consumer.commit({each: committable[each] for each in partitions if each in committable})

    def _on_committed(self, offsets: Mapping[Partition, int], error: ServiceError | None) -> None:
        self._tracker.committed(offsets)
        if error:
            # Later; what is not committed is repeated, never lost.
            log.warning("bridge.commit_failed", error=str(error))

    def _finish(self) -> None:
        partitions = self._tracker.partitions()
        if self._delivery.failure is None and not self._delivery.drain(partitions, self._delivery.stop_wait):
            log.warning("bridge.unfinished", repeated=sum(map(self._tracker.span, partitions)))
        self._commit(partitions)
        if not self._consumer.flush(COMMIT_TIMEOUT):
            log.warning("bridge.commit_failed", error=f"No answer in {COMMIT_TIMEOUT:g} s")
        self._delivery.stop()

    def _leave(self, stuck: Sequence[Partition]) -> None:
        """Give all partitions away, as in a rebalance: another client gets the records of those stuck."""
        log.error("bridge.partitions_stuck", partitions=_names(stuck))
        for partition in stuck:
            metrics.PARTITIONS_STUCK.labels(partition.topic).inc()
        self._on_revoked(self._tracker.partitions())
        self._consumer.flush(COMMIT_TIMEOUT)

    def _on_assigned(self, partitions: list[Partition]) -> None:
        log.info("bridge.assigned", partitions=_names(partitions))
        self._delivery.on_assigned(partitions)
        self._backlog.drop(partitions)
        self._tracker.assign(partitions)
        self._throttle.forget(partitions)

    def _on_revoked(self, partitions: list[Partition]) -> None:
        """Commit what is done while the partitions are still this member's: the next one repeats the rest."""
        held = [partition for partition in partitions if partition in self._tracker.partitions()]
        if held:
            self._delivery.drain(held, REVOKE_WAIT)
            self._commit(held)
        log.info("bridge.revoked", partitions=_names(partitions))
        self._forget(partitions)
        self._throttle.forget(partitions)
        if held:
            self._delivery.resume()

    def _on_lost(self, partitions: list[Partition]) -> None:
        """Forget partitions that another member has already: nothing of them may be committed."""
        log.warning("bridge.lost", partitions=_names(partitions))
        self._forget(partitions)
        self._throttle.forget(partitions)

    def _on_restarted(self, restart: Restart) -> None:
        """Follow a partition from its first record, and report why it is read from there."""
        topic, number = restart.partition
        log.error(RESTARTS[restart.reason], topic=topic, partition=number, lost=restart.lost)
        metrics.EVENTS_EXPIRED.labels(topic).inc(restart.lost)
        self._throttle.forget([restart.partition])
        if restart.reason != "expired":
            # They were read before, so they count with those in flight.
            for record in self._backlog.take_of(restart.partition):
                self._take(record)
            self._tracker.restart(restart.partition)

    def _forget(self, partitions: Iterable[Partition]) -> None:
        """Drop partitions that are given away, with what was polled of them and not taken."""
        self._backlog.drop(list(partitions))
        self._tracker.revoke(partitions)

    def _report_when_due(self) -> None:
        now = time.monotonic()
        if now < self._next_report:
            return
        self._next_report = now + REPORT_EVERY
        spans = {p: span for p in self._tracker.partitions() if (span := self._tracker.span(p))}
        if spans:
            log.info("bridge.progress", events=self._usage.passed, uncommitted=sum(spans.values()))


def _names(partitions: Iterable[Partition]) -> list[str]:
    return [f"{partition.topic}[{partition.number}]" for partition in sorted(partitions)]
