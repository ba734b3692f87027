"""The local services for faults: a Kafka that detects a dead member soon, and can be stopped and started."""

import contextlib
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pipeline.errors import ServiceUnavailableError
from pipeline.services.environment import Services
from pipeline.services.local import LocalStack, keeping
from pipeline.services.process import stop
from pipeline.services.servers import HOST, DynamoDb, ElasticMq, Kafka
from tests.faults.kafkawire import KafkaWire

#: Seconds without a heartbeat until a member of a group is taken for dead; Kafka's own minimum is 45.
SESSION = 6
#: Seconds that services may take to come up: on a much too busy machine a killed Kafka took more than 60.
START = 180.0


def _silent(_line: str) -> None:
    """Show no progress."""


class WatchfulKafka(Kafka):
    """A broker with short sessions (KIP-848), so that a killed bridge's partitions move soon.

    Clients that ask it through the wire are told to go on through the wire.
    """

    port_names = (*Kafka.port_names, "kafka-wired")

    def __init__(self, wire: KafkaWire, *, folder: Path, keep: bool) -> None:
        super().__init__(folder=folder, keep=keep)
        self._wire = wire

    def prepare(self, jars: Path, ports: Mapping[str, int]) -> list[str]:
        """Point the wire to the broker, too."""
        self._wire.target = (HOST, ports["kafka-wired"])
        return super().prepare(jars, ports)

    def _properties(self, ports: Mapping[str, int]) -> str:
        direct = f"PLAINTEXT://{HOST}:{ports['kafka']}"
        lines = {
            "listeners": f"{direct},WIRED://{HOST}:{ports['kafka-wired']},"
            f"CONTROLLER://{HOST}:{ports['controller']}",
            "advertised.listeners": f"{direct},WIRED://{self._wire.address}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,WIRED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "group.consumer.min.session.timeout.ms": SESSION * 1000,
            "group.consumer.session.timeout.ms": SESSION * 1000,
            "group.consumer.min.heartbeat.interval.ms": 500,
            "group.consumer.heartbeat.interval.ms": 1000,
        }
        return super()._properties(ports) + "".join(f"{key}={value}\n" for key, value in lines.items())


class FaultStack(LocalStack):
    """The local services of one temporary folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, keep=False)
        self.kafka_wire = KafkaWire()
        self._kafka = WatchfulKafka(self.kafka_wire, folder=self.folder, keep=False)
        self._servers = (
            ElasticMq(folder=self.folder, keep=False),
            DynamoDb(folder=self.folder, keep=False),
            self._kafka,
        )

    def up(self, progress: Callable[[str], None] = _silent) -> Services:
        """Start the services, with more time for a busy machine."""
        deadline = time.monotonic() + START
        while True:
            try:
                return super().up(progress)
            except ServiceUnavailableError:
                if time.monotonic() > deadline:
                    raise

    def stop_kafka(self, *, kill: bool) -> None:
        """Stop the broker, in order or as in a power cut. ``up`` starts it again with its data."""
        if kill:
            self._kafka.process.signal(signal.SIGKILL)
        stop([self._kafka.process], grace=20)

    @contextlib.contextmanager
    def frozen_kafka(self) -> Iterator[None]:
        """Freeze the broker while the block runs: it keeps its connections and does not answer."""
        self._kafka.process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._kafka.process.signal(signal.SIGCONT)


@contextlib.contextmanager
def running_stack() -> Iterator[tuple[FaultStack, Services]]:
    """Run the services in a temporary folder; ended and removed after the block, or after kill -9."""
    stack = FaultStack(Path(tempfile.mkdtemp(prefix="pipeline-faults-")))
    with stack.kafka_wire.running(), keeping(stack.folder, remove=True):
        yield stack, stack.up()
