"""What every Kafka client of a service is configured with."""

import logging
import socket
import time
import uuid
from typing import Any

from config.settings import Settings
from pipeline.kafka.security import security_configuration

#: Seconds between two lines of librdkafka about connections that fail: it writes ten a second otherwise.
QUIET = 10.0
#: The same of clients of the control plane, which itself says once that Kafka is away: a line for the cause.
SILENT = 600.0


class _Quiet(logging.Filter):
    """Lets one connection failure through in so many seconds; all else always, or never."""

    def __init__(self, seconds: float, *, others: bool) -> None:
        super().__init__()
        self._seconds = seconds
        self._others = others
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        # librdkafka's "facility" comes first: FAIL is a broker's connection, ERROR repeats it.
        if not record.getMessage().startswith(("FAIL", "ERROR")):
            return self._others
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


_log = logging.getLogger("pipeline.kafka")
_log.addFilter(_Quiet(QUIET, others=True))
silent_log = logging.getLogger("pipeline.kafka.control")
silent_log.addFilter(_Quiet(SILENT, others=False))


def client_configuration(settings: Settings, name: str) -> dict[str, Any]:
    """librdkafka properties of every client; ``name`` says which client of the service it is.

    ``client.id`` is unique: quotas, broker logs and group members can be told apart.
    """
    return {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": f"{settings.service_name}-{name}-{socket.gethostname()}-{uuid.uuid4().hex[:12]}",
        "logger": _log,
        # A broker that does not answer a connection is tried again soon, not after the default of 10 s.
        "reconnect.backoff.max.ms": 2000,
        "socket.connection.setup.timeout.ms": 5000,
        "topic.metadata.refresh.interval.ms": 60_000,
        **security_configuration(settings),
    }
