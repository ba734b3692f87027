"""Configuration of every Kafka client of a service, and its log lines."""

import logging
import math
import re
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

import structlog

from pipeline.kafka.security import security_configuration
from pipeline.settings import Settings

log = structlog.get_logger(__name__)

#: Seconds without a line of librdkafka about connections after which the next line begins another outage. In
#: one it writes ten a second, and nothing when it is over; equal lines are suppressed for 30 s.
CALM = 120.0

#: A line of librdkafka: its "facility", the client, the thread, and the detail.
_LINE = re.compile(r"(?P<facility>\w+) \[(?P<client>[^]]*)\] (?:\[thrd:.*?\]: )?(?P<detail>.*)", re.DOTALL)
#: Facilities about brokers that are away or not ready: FAIL is a connection, which ERROR repeats; GETPID an
#: idempotent producer that asks for its number again; OIDC a token that did not come, asked for every 10 s.
_AWAY = frozenset(("FAIL", "ERROR", "GETPID", "OIDC"))
#: Refusals, and tokens that do not come, are kept apart from brokers that are away.
_REFUSED = re.compile("sasl|ssl|authenti|authori|oidc", re.IGNORECASE)


class OneLineAnOutage(logging.Filter):
    """Replaces all lines of an outage by one structured line. ``others``: whether other lines pass."""

    def __init__(self, *, others: bool, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._others = others
        self._clock = clock
        #: When the last line of each kind was written.
        self._last: dict[tuple[bool, bool], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line passes."""
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


#: Of every client that reads records: no record of a transaction that is open or aborted is returned.
READ_COMMITTED: Final = {"isolation.level": "read_committed"}

_client_log = logging.getLogger("pipeline.kafka")
_client_log.addFilter(OneLineAnOutage(others=True))
#: For clients of the control plane, which itself reports once that Kafka is away: only the line of the cause.
silent_log = logging.getLogger("pipeline.kafka.control")
silent_log.addFilter(OneLineAnOutage(others=False))


def client_configuration(settings: Settings, name: str) -> dict[str, Any]:
    """Return the librdkafka properties of a client; ``name`` is its role in the service.

    ``client.id`` is unique, so that quotas, broker logs and group members identify the client.
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
