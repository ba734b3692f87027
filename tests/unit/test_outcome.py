"""Outcomes: what a child returns to the parent process can always be sent, stored and shown."""

import pickle

import pytest

from pipeline.errors import InvalidInputError, PermanentError, Retry
from pipeline.worker.child.outcome import (
    MESSAGE_LIMIT,
    TRACEBACK_LIMIT,
    Succeeded,
    failed,
)


class OddError(Exception):
    """Cannot be pickled or shown."""

    def __init__(self) -> None:
        self.held = lambda: None

    def __str__(self) -> str:
        raise RuntimeError("no text")


def caught(error: BaseException) -> BaseException:
    """The error as it is after it was raised."""
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001 - whatever the test gives
        return raised


@pytest.mark.parametrize(
    ("error", "permanent", "delay"),
    [
        (ValueError("x"), False, None),
        (PermanentError("x"), True, None),
        (InvalidInputError("x"), True, None),
        (Retry(7.5, "later"), False, 7.5),
        (SystemExit(3), False, None),
        (MemoryError(), False, None),
    ],
)
def test_the_class_decides(error: BaseException, permanent: bool, delay: float | None) -> None:
    """Whether it is tried again, and when."""
    outcome = failed(caught(error))
    assert (outcome.permanent, outcome.delay) == (permanent, delay)
    assert outcome.error.endswith(type(error).__qualname__)


def test_any_error_crosses_as_text() -> None:
    """One that cannot be pickled, and one whose text raises."""
    outcome = pickle.loads(pickle.dumps(failed(caught(OddError()))))  # noqa: S301 - our own
    assert outcome.message == "its __str__ raised RuntimeError"
    assert outcome.error == "tests.unit.test_outcome.OddError"


def test_half_characters_do_not_come_through() -> None:
    """A file name in a message must not make the failure itself fail."""
    outcome = failed(caught(ValueError("caf\udce9")))
    assert outcome.message == "caf?"
    outcome.traceback.encode()


def test_texts_are_cut() -> None:
    """A message at its end, a traceback at its beginning."""
    outcome = failed(caught(ValueError("x" * 100_000 + "end")))
    assert len(outcome.message) == MESSAGE_LIMIT
    assert outcome.message.endswith("…")
    assert len(outcome.traceback) == TRACEBACK_LIMIT
    assert outcome.traceback.endswith("end\n")


def test_a_success_crosses() -> None:
    """With its result as it is."""
    outcome = Succeeded(result='{"a":1}', summary="", seconds=0.5)
    assert pickle.loads(pickle.dumps(outcome)) == outcome  # noqa: S301 - our own
