"""The task source of a process: its receivers, its intake, its heartbeat and its disposal."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from pipeline.errors import ConfigurationError, ServiceError
from pipeline.payloads import Payloads, shrinking
from pipeline.settings import Settings
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.telemetry import metrics
from pipeline.transport.disposal import Disposal
from pipeline.transport.heartbeat import Heartbeat, answer_within
from pipeline.transport.intake import Intake
from pipeline.transport.lease import Lease
from pipeline.transport.receiver import Receiver

log = structlog.get_logger(__name__)


def _hold_all(leases: Sequence[Lease]) -> Sequence[Lease]:
    return leases


def _go_on(error: ServiceError) -> None:
    """Go on with the other queues: the receiver logged the error."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Decisions of the owner of a task source about its messages."""

    #: choose which of the messages just received are held; called on the thread of a receiver
    look_up: Callable[[Sequence[Lease]], Sequence[Lease]] = _hold_all
    #: end a message that is not to be run, because of its problem or verdict; None: hide it for a while, so
    #: that the redrive policy ends it
    end_unrun: Callable[[Lease], None] | None = None
    #: called when SQS refuses to be received from
    on_refused: Callable[[ServiceError], None] = _go_on


class TaskSource:
    """All that brings tasks to this process and takes them off their queues. Connections come and go."""

    def __init__(self, settings: Settings, hooks: Hooks) -> None:
        self._settings = settings
        self._shrink = shrinking(Payloads(settings))
        self._hooks = hooks
        self._queues: dict[str, SqsQueue] = {}
        self._receivers: dict[str, Receiver] = {}
        self._stopped: list[Receiver] = []
        #: wakes the connection that consumes; called from any thread
        self._wake: Callable[[], None] = lambda: None
        self.intake = Intake(
            on_ready=lambda: self._wake(), on_unwanted=lambda leases: self.disposal.release(leases)
        )
        self.disposal = Disposal(self.intake, self.queue)
        self.heartbeat = Heartbeat(self.intake, self.disposal, self._prompt_queue, settings.sqs_lease_seconds)

    def queue(self, name: str) -> SqsQueue:
        """Return the queue of that name."""
        queue = self._queues.get(name)
        if queue is None:
            queue = SqsQueue(sqs_client(self._settings), self._settings.queue_url(name), self._shrink)
            self._queues[name] = queue
        return queue

    def _prompt_queue(self, name: str) -> SqsQueue:
        """Return the same queue for calls that end early enough to be made again."""
        client = sqs_client(self._settings, answer_within=answer_within(self._settings.sqs_lease_seconds))
        return SqsQueue(client, self._settings.queue_url(name))

    def set_slots(self, slots: int) -> None:
        """Set how many messages the worker runs at once."""
        self.intake.slots = slots
        self._wake()

    def consume(self, name: str, wake: Callable[[], None]) -> None:
        """Start receiving from a queue; call ``wake``, from any thread, when a message may be ready.

        Nothing is received where KAFKA_ENABLED or USE_SQS_TASK_PROCESSING is false: without Kafka neither
        results nor failures could be sent.
        """
        self._wake = wake
        switches = {
            "KAFKA_ENABLED": self._settings.kafka_enabled,
            "USE_SQS_TASK_PROCESSING": self._settings.use_sqs_task_processing,
        }
        if off := [switch for switch, on in switches.items() if not on]:
            log.warning("worker.off", switches=off, effect="nothing is received", queue=name)
        elif name not in self._receivers:
            self._receivers[name] = Receiver(
                self.intake,
                self.queue(name),
                name=name,
                wait_seconds=self._settings.sqs_wait_time_seconds,
                lease_seconds=self._settings.sqs_lease_seconds,
                take_in=lambda leases: self._take_in(name, leases),
                on_refused=self._hooks.on_refused,
            )
            # Metrics begin at 0, so that the first message counts as an increase.
            metrics.TASKS_RECEIVED.labels(name)
            metrics.LEASES_LOST.labels(name)
            # Only now: what it brings before it is in ``_receivers`` would count as cancelled.
            self._receivers[name].start()

    def end_unrun(self, lease: Lease) -> None:
        """End a message that is not to be run."""
        if self._hooks.end_unrun is not None:
            self._hooks.end_unrun(lease)
            return
        log.error("message.invalid", queue=lease.queue, message_id=lease.message_id, problem=lease.problem)
        self.disposal.give_back(lease, self._settings.sqs_lease_seconds)

    def stuck(self) -> str | None:
        """Return why nothing is received until the process is restarted; None while it works."""
        return "the worker's event loop gives no sign of life" if self.heartbeat.wedged else None

    def cancel(self, name: str) -> None:
        """Stop receiving from a queue, and give back what was not started."""
        receiver = self._receivers.pop(name, None)
        if receiver is not None:
            receiver.stop()
            self._stopped.append(receiver)
            self._give_back_unstarted(name)

    def close(self, timeout: float) -> None:
        """Stop receiving, give back all that was not started, delete what was settled, end the threads.

        Waits for long polls under way: what they bring would otherwise stay hidden for a lease.
        """
        for name in list(self._receivers):
            self.cancel(name)
        deadline = time.monotonic() + self._settings.sqs_wait_time_seconds + 1
        for receiver in self._stopped:
            receiver.join(max(0, deadline - time.monotonic()))
        self._give_back_unstarted(None)
        self.disposal.close(timeout)
        self.heartbeat.close()

    def _take_in(self, name: str, leases: Sequence[Lease]) -> None:
        self.intake.hold(self._hooks.look_up(leases))
        if name not in self._receivers:
            # Cancelled while the poll was under way.
            self.disposal.give_back_waiting(name)

    def _give_back_unstarted(self, name: str | None) -> None:
        self.intake.restore(name)
        self.disposal.give_back_waiting(name)


#: The task source of this process: made by its worker, or by the first connection that consumes.
_source: TaskSource | None = None


def open_task_source(settings: Settings, hooks: Hooks) -> TaskSource:
    """Make the task source of this process, with the hooks of its owner."""
    global _source
    if _source is not None:
        raise ConfigurationError("This process has a task source already: one worker per process.")
    _source = TaskSource(settings, hooks)
    return _source


def task_source(settings: Settings) -> TaskSource:
    """Return the task source of this process; one without hooks is made where there is none."""
    return _source or open_task_source(settings, Hooks())


def close_task_source(timeout: float) -> None:
    """Close the task source of this process, if it has one (``TaskSource.close``)."""
    global _source
    if _source is not None:
        current, _source = _source, None
        current.close(timeout)


def _forget_task_source() -> None:
    """Forget it in a forked child: its threads and its messages are the parent's."""
    global _source
    _source = None


os.register_at_fork(after_in_child=_forget_task_source)
