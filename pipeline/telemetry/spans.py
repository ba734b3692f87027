"""Spans, as the engine uses them: what a tracer must offer, and what replaces a span while tracing is off."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["consumer", "producer", "internal"]
Attributes = Mapping[str, str | int | float | bool]


class Span(Protocol):
    """A span of one hop. Ended once, from any thread."""

    @property
    def traceparent(self) -> str | None:
        """The ``traceparent`` that the next hop continues."""

    def fail(self, error: str, message: str, traceback: str = "") -> None:
        """Mark the span as failed by ``error``, the exception's class."""

    def note(self, name: str, value: str | int) -> None:
        """Set an attribute."""

    def end(self) -> None:
        """End the span."""


@dataclass(frozen=True, slots=True)
class Untraced:
    """Replaces a span while tracing is off: passes the ``traceparent`` of its input on."""

    traceparent: str | None

    def fail(self, error: str, message: str, traceback: str = "") -> None:
        """Do nothing."""

    def note(self, name: str, value: str | int) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


class Tracer(Protocol):
    """Makes spans; implemented in ``pipeline.telemetry.otel``."""

    def span(
        self,
        kind: Kind,
        name: str,
        parent: str | None,
        attributes: Attributes,
        links: Sequence[int] = (),
        span_id: int | None = None,
    ) -> Span:
        """Start a span below ``parent``; ``links`` are ids of spans of the same trace."""

    def within(self, traceparent: str) -> AbstractContextManager[None]:
        """Put the spans that the block's code makes below ``traceparent``."""

    def stop(self) -> None:
        """Send unsent spans, for a bounded time."""
