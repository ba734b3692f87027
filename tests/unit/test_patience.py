"""Repeating a request until a service answers, and the log of an outage."""

import pytest

from pipeline import patience
from pipeline.errors import MessageRefusedError, ServiceUnavailableError
from pipeline.patience import Abandoned, Patience
from tests.loglines import log_lines

AWAY = ServiceUnavailableError("nobody answers")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 1e-6)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 1e-6)


class Service:
    """Away for some calls."""

    def __init__(self, failures: int) -> None:
        self._failures = failures

    def one(self) -> str:
        self._failures -= 1
        if self._failures >= 0:
            raise AWAY
        return "there"

    def each(self, items: list[str]) -> list[Exception | None]:
        self._failures -= 1
        return [AWAY if self._failures >= 0 else None for _ in items]


def test_the_log_says_when_an_outage_began_and_that_it_is_over() -> None:
    """One line each, however often it was asked; the last says how long it took."""
    with log_lines(patience) as lines:
        assert Patience().each("record", ["a", "b"], Service(5).each) == [None, None]
        assert Patience().one("close", Service(5).one) == "there"
    assert [(line["event"], line["step"]) for line in lines] == [
        ("service.unanswered", "record"),
        ("service.answered", "record"),
        ("service.unanswered", "close"),
        ("service.answered", "close"),
    ]
    assert lines[0]["waiting"] == 2
    assert lines[1]["seconds"] >= 0


def test_one_call_that_fails_is_no_outage() -> None:
    """The log says nothing of it."""
    with log_lines(patience) as lines:
        Patience().each("record", ["a"], Service(1).each)
        Patience().one("close", Service(1).one)
    assert lines == []


def test_an_outage_may_last_for_days() -> None:
    """However often it was asked, it is asked again: after 2,000 tries the pause is still a number."""
    assert Patience().one("close", Service(2_000).one) == "there"


def test_what_is_refused_is_not_asked_again() -> None:
    """Only those without an answer are."""
    asked: list[list[str]] = []

    def call(items: list[str]) -> list[Exception | None]:
        asked.append(items)
        first = len(asked) == 1
        return [
            MessageRefusedError("too large") if item == "b" else AWAY if first else None for item in items
        ]

    assert [type(error) for error in Patience().each("emit", ["a", "b"], call)] == [
        type(None),
        MessageRefusedError,
    ]
    assert asked == [["a", "b"], ["a"]]


def test_a_process_that_stops_waits_no_longer() -> None:
    """And says nothing of an answer that did not come."""
    stopping = Patience()
    stopping.end()
    with log_lines(patience) as lines, pytest.raises(Abandoned):
        stopping.one("close", Service(5).one)
    assert lines == []


def test_without_waiting_an_outage_is_the_answer() -> None:
    """A person who submits or cancels is answered at once, and can try again."""
    away = ServiceUnavailableError("away")
    calls: list[list[int]] = []

    def call(items: list[int]) -> list[Exception | None]:
        calls.append(items)
        return [away, None]

    patience = Patience(waits=False)
    assert patience.each("open", [1, 2], call) == [away, None]
    assert calls == [[1, 2]]

    def refuse() -> None:
        raise away

    with pytest.raises(ServiceUnavailableError):
        patience.one("cancel", refuse)
