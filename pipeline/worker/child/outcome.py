"""Outcomes of tasks: small frozen values that a child sends to the parent, which settles them.

They have no slots, like the options of a run: pickle handles an object's dict without calls to Python code,
in a third of the time.

A child sends its own exception as text, never as an object: one that cannot be pickled, or whose module
the parent has not imported, must not cost the task.
"""

import math
import traceback
from dataclasses import dataclass
from typing import Final

from pipeline.errors import PermanentError, Retry
from pipeline.jobs import Closing
from pipeline.results.report import Report
from pipeline.wire.marker import Marker
from pipeline.wire.redaction import LIMIT, redact

#: Characters of a traceback that are kept, from its end, where the cause is. Error events must stay
#: far below a topic's max.message.bytes.
TRACEBACK_LIMIT = 8_000
#: Characters of an exception's message that are kept.
MESSAGE_LIMIT = 2_000


@dataclass(frozen=True, kw_only=True)
class Succeeded:
    """The run returned."""

    #: a stage's result as JSON, None when the stage returned None; for a plain task always None
    result: str | None
    #: the entity of the event that it becomes; None for that of the task
    entity: str | None = None
    #: the result cut short, for Flower
    summary: str
    #: run time in seconds
    seconds: float
    #: what the backend told of a plain task whose result is kept
    report: Report | None = None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The run raised or was killed, or the task could not be run."""

    #: the exception's class, with its module
    error: str
    message: str
    traceback: str = ""
    #: it must not be tried again
    permanent: bool = False
    #: the task raised Celery's ``Reject``
    rejected: bool = False
    #: seconds until the next try that the task asked for; None: the computed backoff
    delay: float | None = None
    seconds: float = 0.0
    #: what the backend told of a plain task whose result is kept
    report: Report | None = None


@dataclass(frozen=True, kw_only=True)
class AlreadyDone:
    """An earlier delivery recorded the effects: close what it left open, then delete the message."""

    closings: tuple[Closing, ...] = ()
    #: when it was recorded, in seconds since 1970, where that is kept
    finished_at: float = math.inf


#: The reason of a task that raised ``Ignore`` and did not publish itself again.
IGNORED: Final = "ignored"


@dataclass(frozen=True, kw_only=True)
class Discarded:
    """A plain task ended without a result: retried by its own publish, ignored, revoked or expired."""

    reason: str
    #: It published itself again (``retry``, ``replace``): another message of the same task ends it.
    lives_on: bool = False
    #: what the result of the task says of it
    report: Report | None = None


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """The job was cancelled before the task started: it is not run, and nothing is recorded."""


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A marker of the sweep was received: record it, then delete the message."""

    marker: Marker


@dataclass(frozen=True, kw_only=True)
class Returned:
    """The task did not run, or a shutdown or itself cut it off: it goes back to the queue, as no attempt."""

    delay: float = 0.0
    #: the task raised Celery's ``Reject`` with ``requeue=True``
    rejected: bool = False


Outcome = Succeeded | Failed | AlreadyDone | Discarded | Cancelled | Marked | Returned


def failed(error: BaseException, seconds: float = 0.0, *, permanent: bool | None = None) -> Failed:
    """Return the ``Failed`` of an exception, whose class decides whether and when to try again."""
    return Failed(
        error=_unicode(f"{type(error).__module__}.{type(error).__qualname__}"),
        message=_cut(redact(_unicode(_message(error))), MESSAGE_LIMIT),
        # Of its end: redaction keeps the beginning of a long text.
        traceback=redact(_unicode(_traceback(error))[-LIMIT:])[-TRACEBACK_LIMIT:],
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
    """Replace half surrogate pairs (of a file name, say), which no event or record can hold."""
    return text.encode("utf-8", "replace").decode()


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
