"""An outage reported by librdkafka is one line of this project's log."""

import logging

from pipeline.kafka import configuration
from pipeline.kafka.configuration import CALM, OneLineAnOutage
from tests.loglines import log_lines

CLIENT = "orders-worker#producer-1"
AWAY = f"FAIL [{CLIENT}] [thrd:b:1/bootstrap]: b:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: refused"
DOWN = f"ERROR [{CLIENT}] [thrd:app]: {CLIENT}: b:1/bootstrap: 1/1 brokers are down"
REFUSED = f"FAIL [{CLIENT}] [thrd:sasl_ssl://b:1]: b:1: SASL authentication error: wrong password"
NO_TOKEN = (
    f'OIDC [{CLIENT}] [thrd:background]: Failed to retrieve OIDC token from "https://l/token": away (-1)'
)
STARTING = f"GETPID [{CLIENT}] [thrd:main]: Failed to acquire idempotence PID: retrying"
FENCED = f"MAXPOLL [{CLIENT}] [thrd:main]: Application maximum poll interval exceeded"


class Client:
    """A client of librdkafka, on a clock."""

    def __init__(self, *, others: bool = True) -> None:
        self.now = 5.0
        self._filter = OneLineAnOutage(others=others, clock=lambda: self.now)

    def says(self, text: str, level: int = logging.ERROR) -> bool:
        """Whether the line is written as it is."""
        # As confluent_kafka calls its logger.
        return self._filter.filter(logging.LogRecord("pipeline.kafka", level, "", 0, "%s", (text,), None))


def test_an_outage_is_one_line() -> None:
    """However often the client repeats it, and whichever way; the next outage is told again."""
    client = Client()
    with log_lines(configuration) as lines:
        for _ in range(100):
            assert not client.says(AWAY)
            assert not client.says(DOWN)
            client.now += CALM / 4
        assert [(line["event"], line["level"], line["client"]) for line in lines] == [
            ("kafka.not_ready", "warning", CLIENT)
        ]
        assert lines[0]["detail"].startswith("b:1/bootstrap: Connect to")
        client.now += CALM
        client.says(DOWN)
        assert len(lines) == 2


def test_what_waiting_does_not_mend_is_told_in_an_outage_too() -> None:
    """A refused password is not taken for a repetition."""
    client = Client()
    with log_lines(configuration) as lines:
        client.says(AWAY)
        client.says(REFUSED)
    assert ["wrong password" in line["detail"] for line in lines] == [False, True]


def test_a_provider_of_tokens_that_is_away_is_one_line_too() -> None:
    """Each client asks it again every 10 s; brokers that cut their connections meanwhile do not hide it."""
    client = Client()
    with log_lines(configuration) as lines:
        client.says(AWAY)
        for _ in range(10):
            assert not client.says(NO_TOKEN)
            client.now += 10
    assert ["OIDC token" in line["detail"] for line in lines] == [False, True]


def test_a_broker_that_is_starting_is_no_warning() -> None:
    """Nor is an idle connection that it closes; neither hides an outage that follows."""
    client = Client()
    with log_lines(configuration) as lines:
        client.says(STARTING, logging.WARNING)
        client.says(AWAY, logging.INFO)
        client.says(AWAY)
    assert [line["level"] for line in lines] == ["info", "warning"]


def test_all_else_is_written_as_it_is_or_not_at_all() -> None:
    """The control plane's clients are silent: it says itself what it lacks."""
    with log_lines(configuration) as lines:
        assert Client().says(FENCED)
        assert not Client(others=False).says(FENCED)
    assert lines == []
