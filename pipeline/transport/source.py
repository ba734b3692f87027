"""The receiving side of a process: one intake, its receivers, its heartbeat and its disposal."""

import os
import time
from collections.abc import Callable, Sequence

import structlog

from config.settings import Settings
from pipeline.errors import ServiceError
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.telemetry import metrics
from pipeline.transport.disposal import Disposal
from pipeline.transport.heartbeat import Heartbeat, answer_within
from pipeline.transport.intake import Intake
from pipeline.transport.lease import Lease
from pipeline.transport.receiver import Receiver

log = structlog.get_logger(__name__)

#: What is to be held of the messages just received.
Screen = Callable[[Sequence[Lease]], Sequence[Lease]]


class Inbound:
    """Made once a process, when the first queue is consumed; connections come and go around it."""

    def __init__(self, settings: Settings, on_ready: Callable[[], None]) -> None:
        self._settings = settings
        self._queues: dict[str, SqsQueue] = {}
        self._receivers: dict[str, Receiver] = {}
        self._stopped: list[Receiver] = []
        #: called, from any thread, when a message may be ready; the consuming connection sets it
        self.on_ready = on_ready
        #: what to do with a message that is not to be run, for its problem or verdict; the worker sets it
        self.on_unrunnable: Callable[[Lease], None] = self._leave_to_redrive_policy
        #: what to do when SQS refuses to be received from; the worker sets it
        self.on_refused: Callable[[ServiceError], None] = lambda _: None
        #: decides, on a receiver's thread, which of the received are to be run; the worker sets it
        self.screen: Screen = lambda leases: leases
        self.intake = Intake(
            on_ready=lambda: self.on_ready(), on_unwanted=lambda leases: self.disposal.release(leases)
        )
        self.disposal = Disposal(self.intake, self.queue)
        self.heartbeat = Heartbeat(self.intake, self.disposal, self._prompt_queue, settings.sqs_lease_seconds)

    def queue(self, name: str) -> SqsQueue:
        """The queue of that name."""
        queue = self._queues.get(name)
        if queue is None:
            queue = SqsQueue(sqs_client(self._settings), self._settings.queue_url(name))
            self._queues[name] = queue
        return queue

    def _prompt_queue(self, name: str) -> SqsQueue:
        """The same, for calls that end in time for another."""
        client = sqs_client(self._settings, answer_within=answer_within(self._settings.sqs_lease_seconds))
        return SqsQueue(client, self._settings.queue_url(name))

    def consume(self, name: str) -> None:
        """Start receiving from a queue; nothing while that is switched off.

        Without Kafka as well: what came of a task, or of its failure, could not be sent.
        """
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
                wait_seconds=self._settings.sqs_wait_time_seconds,
                lease_seconds=self._settings.sqs_lease_seconds,
                take_in=lambda leases: self._take_in(name, leases),
                on_refused=lambda error: self.on_refused(error),
            )
            # From 0 on: the first one is an increase.
            metrics.TASKS_RECEIVED.labels(name)
            metrics.LEASES_LOST.labels(name)
            # Known before it starts: what it brings at once would be taken for a cancelled one's.
            self._receivers[name].start()

    def stuck(self) -> str | None:
        """Why nothing is received or run here until the process is started anew; None while it works."""
        return "the worker's event loop gives no sign of life" if self.heartbeat.wedged else None

    def cancel(self, name: str) -> None:
        """Stop receiving from a queue; what did not start goes back."""
        receiver = self._receivers.pop(name, None)
        if receiver is not None:
            receiver.stop()
            self._stopped.append(receiver)
            self._give_back_unstarted(name)

    def close(self, timeout: float) -> None:
        """Stop receiving, give back all that did not start, delete what was settled; end the threads.

        Waits for long polls under way, because what they bring would otherwise stay hidden for a lease.
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
        self.intake.hold(self.screen(leases))
        if name not in self._receivers:
            # Cancelled while the poll was under way.
            self.disposal.give_back_waiting(name)

    def _give_back_unstarted(self, name: str | None) -> None:
        self.intake.restore(name)
        self.disposal.give_back_waiting(name)

    def _leave_to_redrive_policy(self, lease: Lease) -> None:
        log.error("message.invalid", queue=lease.queue, message_id=lease.message_id, problem=lease.problem)
        self.disposal.give_back(lease, self._settings.sqs_lease_seconds)


_inbound: Inbound | None = None


def inbound(settings: Settings) -> Inbound:
    """This process's receiving side."""
    global _inbound
    if _inbound is None:
        _inbound = Inbound(settings, on_ready=lambda: None)
    return _inbound


def stuck() -> str | None:
    """``Inbound.stuck`` of this process's receiving side; None where there is none."""
    return _inbound.stuck() if _inbound else None


def close_inbound(timeout: float) -> None:
    """End this process's receiving side, if it has one (``Inbound.close``)."""
    global _inbound
    if _inbound is not None:
        current, _inbound = _inbound, None
        current.close(timeout)


def _forget_inbound() -> None:
    """In a forked child: the threads are the parent's, and so is what it holds."""
    global _inbound
    _inbound = None


os.register_at_fork(after_in_child=_forget_inbound)
