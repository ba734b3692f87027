"""What every Kafka client of a service is configured with."""

import logging
import math
import re
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

import structlog

from config.settings import Settings
from pipeline.kafka.security import security_configuration

log = structlog.get_logger(__name__)

#: Seconds without a line of librdkafka about connections after which the next begins another outage. In one
#: it writes ten a second, and it says nothing when it is over; of equal ones it leaves out 30 s.
CALM = 120.0

#: librdkafka's line: its "facility", which client, which of its threads, and what it has to say.
_LINE = re.compile(r"(?P<facility>\w+) \[(?P<client>[^]]*)\] (?:\[thrd:.*?\]: )?(?P<detail>.*)", re.DOTALL)
#: Facilities about brokers that are away or not ready: FAIL is a connection, which ERROR repeats; GETPID an
#: idempotent producer that asks for its number again.
_AWAY = frozenset(("FAIL", "ERROR", "GETPID"))
#: What waiting does not mend is another matter than a broker that is away.
_REFUSED = re.compile("sasl|ssl|authenti|authori", re.IGNORECASE)


class OneLineAnOutage(logging.Filter):
    """Makes one line of ours of all that librdkafka writes in an outage; all else passes, or nothing does."""

    def __init__(self, *, others: bool, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._others = others
        self._clock = clock
        #: Of each kind of line, when the last one was written.
        self._last: dict[tuple[bool, bool], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written as it is."""
        line = _LINE.match(record.getMessage())
        if line is None or line["facility"] not in _AWAY:
            return self._others
        # A number comes as soon as the brokers are up; an idle connection that a broker closes is no outage.
        harmless = line["facility"] == "GETPID" or record.levelno < logging.WARNING
        kind = harmless, bool(_REFUSED.search(line["detail"]))
        now = self._clock()
        if now - self._last.get(kind, -math.inf) >= CALM:
            say = log.info if harmless else log.warning
            say("kafka.not_ready", client=line["client"], detail=line["detail"])
        self._last[kind] = now
        return False


_client_log = logging.getLogger("pipeline.kafka")
_client_log.addFilter(OneLineAnOutage(others=True))
#: Of clients of the control plane, which itself says once that Kafka is away: a line for the cause.
silent_log = logging.getLogger("pipeline.kafka.control")
silent_log.addFilter(OneLineAnOutage(others=False))


def client_configuration(settings: Settings, name: str) -> dict[str, Any]:
    """librdkafka properties of every client; ``name`` says which client of the service it is.

    ``client.id`` is unique: quotas, broker logs and group members can be told apart.
    """
    return {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": f"{settings.service_name}-{name}-{socket.gethostname()}-{uuid.uuid4().hex[:12]}",
        "logger": _client_log,
        # A broker that does not answer a connection is tried again soon, not after the default of 10 s.
        "reconnect.backoff.max.ms": 2000,
        "socket.connection.setup.timeout.ms": 5000,
        "topic.metadata.refresh.interval.ms": 60_000,
        **security_configuration(settings),
    }
