"""Lines of the checklist, and the findings of their checks."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pipeline.checklist.facts import Facts

#: The share of a quota from which on a line warns.
NEAR = 0.8

Section = Literal["Kafka", "SQS", "General"]


class Status(StrEnum):
    """The outcome of a line."""

    PASS = "PASS"  # noqa: S105 - no password
    #: It works, with a remark or an improvement to make.
    WARN = "WARN"
    #: Not ready for production.
    FAIL = "FAIL"
    #: It does not apply, or cannot be determined here.
    SKIP = "SKIP"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of a check."""

    status: Status
    #: The setting, client configuration or answer of a service that it rests on.
    evidence: str
    #: The mend; empty for PASS.
    mend: str = ""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A line to check."""

    #: "<section>.<words>": the stable name for other tools.
    id: str
    section: Section
    #: As in the checklist.
    title: str
    check: Callable[[Facts], Finding]
    #: The service it asks; the line is skipped while that side is switched off.
    asks: Literal["kafka", "sqs"] | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A checked line. Its fields are those of ``pipeline check --json``."""

    id: str
    section: Section
    title: str
    status: Status
    evidence: str
    mend: str


def ok(evidence: str) -> Finding:
    """Return PASS."""
    return Finding(status=Status.PASS, evidence=evidence)


def warn(evidence: str, mend: str) -> Finding:
    """Return WARN: it works, and should be known or improved."""
    return Finding(status=Status.WARN, evidence=evidence, mend=mend)


def fail(evidence: str, mend: str) -> Finding:
    """Return FAIL: not ready for production."""
    return Finding(status=Status.FAIL, evidence=evidence, mend=mend)


def skip(evidence: str, mend: str = "") -> Finding:
    """Return SKIP: it does not apply, or cannot be determined here."""
    return Finding(status=Status.SKIP, evidence=evidence, mend=mend)
