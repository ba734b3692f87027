"""The state machine of the property tests of chords: Hypothesis chooses every schedule of one chord."""

import contextlib
from collections import Counter as Multiset
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.errors import ServiceError
from pipeline.jobs import ChordPart, Decision, JobStore, PartEnd, PartFailure
from pipeline.settings import Settings
from tests.jobs_world import FAULTS, KINDS, Moment, SequentialTable, Wire, Worker, take_step

CHORD = "chord"
moments = st.builds(Moment, st.sampled_from(KINDS), st.integers(0, 4), st.sampled_from(FAULTS))


@dataclass(frozen=True)
class Message:
    """A header task's message. A copy has another number."""

    ordinal: int
    number: int
    redriven: bool = False


class ChordMachine(RuleBasedStateMachine):
    """Any schedule of deliveries, copies, faults and redrives of one chord's header."""

    #: Gives a client, and the name of its table, which is empty for the service.
    make_client: Callable[[], tuple[Any, str]]

    @initialize(
        size=st.integers(1, 7),
        added=st.integers(0, 2),
        doomed=st.frozensets(st.integers(0, 8), max_size=2),
        shared=st.booleans(),
    )
    def publish(self, size: int, added: int, doomed: frozenset[int], shared: bool) -> None:
        """Begin to publish the chord; a part of it is still to be sent.

        ``added``: tasks that header tasks add while they run. ``shared``: all have one index.
        """
        client, table_name = self.make_client()
        settings = Settings(
            service_name="test",
            kafka_bootstrap_servers="none",
            kafka_consumer_group="test",
            sqs_task_queue_url="http://none/tasks.fifo",
            sqs_dlq_url="http://none/dlq.fifo",
        )
        table = SequentialTable(table_name, lambda: Wire(client, lambda: None))  # type: ignore[arg-type,return-value]
        self.chords = JobStore(settings, table=table, clock=lambda: 4_000_000_000.0).chords
        self.size, self.to_add, self.doomed, self.shared = size, added, doomed, shared
        self.total = size
        self.queue: list[Message] = []
        self.dead: list[Message] = []
        self.copies = 0
        #: Ordinals of which an end was certainly or possibly written.
        self.ended: set[int] = set()
        self.published: Multiset[Decision] = Multiset()
        self.closed = False
        self.workers: list[Worker] = []
        self._start(self._publish, Moment("any", 0, "none"))

    def _publish(self) -> None:
        """What Celery does: the size is told before the last task is sent, and the client tries again."""
        for ordinal in range(self.size - 1):
            take_step(partial(self.send, ordinal))
        while True:
            with contextlib.suppress(ServiceError):
                self.chords.set_size(CHORD, self.size)
                break
        take_step(partial(self.send, self.size - 1))

    def send(self, ordinal: int) -> None:
        """Put a message on the queue."""
        self.copies += 1
        self.queue.append(Message(ordinal, self.copies))

    # ─── What can happen ───

    @precondition(lambda self: self.queue and len(self.workers) < 4)
    @rule(picks=st.lists(st.integers(0, 100), min_size=1, max_size=4), moment=moments)
    def deliver(self, picks: list[int], moment: Moment) -> None:
        """A worker receives some messages, maybe one twice, and meets a fault."""
        messages = [self.queue[pick % len(self.queue)] for pick in picks]
        self._start(partial(self.work, messages), moment)

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 3), moment=moments)
    def step(self, which: int, moment: Moment) -> None:
        """Some worker gets on, and meets a fault."""
        worker = self.workers[which % len(self.workers)]
        # The client that publishes is no worker: if it dies, its header is not whole.
        worker.advance(Moment(moment.kind, moment.skip, "none") if worker is self.client else moment)
        self._reap()

    @precondition(lambda self: self.ended)
    @rule(pick=st.integers(0, 100))
    def copy(self, pick: int) -> None:
        """A message that was received comes again, maybe long after."""
        ended = sorted(self.ended)
        self.send(ended[pick % len(ended)])

    @rule()
    def wait(self) -> None:
        """Nothing happens."""

    @precondition(lambda self: self.dead)
    @rule(pick=st.integers(0, 100))
    def redrive(self, pick: int) -> None:
        """A person redrives a dead letter, and its task goes well then."""
        message = self.dead.pop(pick % len(self.dead))
        self.queue.append(Message(message.ordinal, message.number, redriven=True))

    # ─── A worker ───

    def work(self, messages: list[Message]) -> None:
        """Settle header tasks as a worker does: record, decide, publish, close, delete."""
        with contextlib.suppress(ServiceError):  # the messages stay where they are, and come again
            ends = [self._end(message) for message in messages]
            self.ended |= {message.ordinal for message in messages}
            recorded = self.chords.record(ends)
            for chord_id in recorded.full:
                self._close(chord_id)
            for message, error in zip(messages, recorded.errors, strict=True):
                if error is None:
                    take_step(partial(self._delete, message))

    def _end(self, message: Message) -> PartEnd:
        ordinal = message.ordinal
        part = ChordPart(chord_id=CHORD, task_id=f"t{ordinal}", index=0 if self.shared else ordinal * 700)
        if self.to_add:
            with contextlib.suppress(ServiceError):
                if not self.published and self.total == self.size:
                    self.chords.add_task(CHORD, f"t{self.total}")
                    self.total, self.to_add = self.total + 1, 0
                    take_step(partial(self.send, self.total - 1))
        if ordinal in self.doomed and not message.redriven:
            failure = PartFailure(task_id=part.task_id, error="E", message="no")
            return PartEnd(part=part, failure=failure)
        return PartEnd(part=part, result=str(ordinal))

    def _close(self, chord_id: str) -> None:
        decision = self.chords.decide(chord_id)
        if decision is None:
            return
        assert self.ended >= set(range(self.total)), "closed early"
        assert not self.closed, "decided again after it was closed"
        take_step(partial(self.published.update, [decision]))
        self.chords.close(chord_id, 0.0)
        take_step(self._note_closed)

    def _note_closed(self) -> None:
        # Those that decided before may publish the same again; that is one id on the queue.
        if len(self.workers) == 1:
            self.closed = True

    def _delete(self, message: Message) -> None:
        if message in self.queue:
            self.queue.remove(message)
            if message.ordinal in self.doomed and not message.redriven:
                self.dead.append(message)

    # ─── The end ───

    @invariant()
    def never_two(self) -> None:
        """What is published is always the same."""
        assert len(getattr(self, "published", ())) <= 1, "published one thing, then another"

    def teardown(self) -> None:
        """Let everything run out: the chord must have closed."""
        if not hasattr(self, "workers"):
            return
        try:
            while self.workers:
                worker = self.workers[0]
                while not worker.finished:
                    worker.step()
                self._reap()
            for _ in range(100):
                if not self.queue:
                    break
                self.work(list(self.queue))
            assert not self.queue
            (decision,) = self.published
            if decision.results is not None:
                expected = ",".join(map(str, sorted(range(self.total), key=str if self.shared else int)))
                assert decision.results == f"[{expected}]"
        finally:
            for worker in self.workers:
                while not worker.finished:
                    worker.step("die")

    def _start(self, procedure: Callable[[], None], moment: Moment) -> None:
        worker = Worker(procedure)
        if not hasattr(self, "client"):
            self.client = worker
        self.workers.append(worker)
        worker.advance(moment)
        self._reap()

    def _reap(self) -> None:
        self.workers = [worker for worker in self.workers if not worker.finished]
