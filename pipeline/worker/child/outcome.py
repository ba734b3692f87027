"""What came of a task: small frozen values that cross from a child to the parent and end in settlement.

A child sends its own exception as text, never as an object: one that cannot be pickled, or whose module
the parent has not imported, must not cost the task.
"""

import traceback
from dataclasses import dataclass

from pipeline.errors import PermanentError, Retry
from pipeline.jobs import Closing
from pipeline.telemetry.redaction import redact

#: Characters of a traceback that are kept, from its end, where the cause is. Error events must stay
#: far below a topic's max.message.bytes.
TRACEBACK_LIMIT = 8_000
#: Characters of an exception's message that are kept.
MESSAGE_LIMIT = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Succeeded:
    """It ran to its end."""

    #: a stage's result as JSON, None when the stage returned None; for a plain task always None
    result: str | None
    #: the result cut short, for Flower
    summary: str
    #: run time in seconds
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """It raised, was killed, or could not be run."""

    #: the exception's class, with its module
    error: str
    message: str
    traceback: str = ""
    #: it must not be tried again
    permanent: bool = False
    #: seconds until the next try that the task asked for; None: the computed backoff
    delay: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AlreadyDone:
    """Its effects were recorded by an earlier delivery: close what that one left open, then delete."""

    closings: tuple[Closing, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Discarded:
    """A plain task that is over without a result: retried by its own publish, ignored, revoked, expired."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancelled:
    """Its job was cancelled before it started: it is not run, and nothing of it is recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Returned:
    """It did not run, or was cut off by a shutdown: back to the queue, no attempt counted."""

    delay: float = 0.0


Outcome = Succeeded | Failed | AlreadyDone | Discarded | Cancelled | Returned


def failed(error: BaseException, seconds: float = 0.0, *, permanent: bool | None = None) -> Failed:
    """The ``Failed`` of an exception; its class decides whether it is permanent and how long to wait."""
    return Failed(
        error=_unicode(f"{type(error).__module__}.{type(error).__qualname__}"),
        message=_cut(redact(_unicode(_message(error))), MESSAGE_LIMIT),
        traceback=redact(_unicode(_traceback(error)))[-TRACEBACK_LIMIT:],
        permanent=isinstance(error, PermanentError) if permanent is None else permanent,
        delay=error.delay if isinstance(error, Retry) else None,
        seconds=seconds,
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:  # noqa: BLE001 - a task's own exception may do anything
        return f"its __str__ raised {type(broken).__qualname__}"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as broken:  # noqa: BLE001 - as above
        return f"cannot be shown: {type(broken).__qualname__}"


def _unicode(text: str) -> str:
    """Without halves of characters (of a file name, say), which no event or record can hold."""
    return text.encode("utf-8", "replace").decode()


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
