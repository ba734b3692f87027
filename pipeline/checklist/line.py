"""One line of the checklist: what is to be checked, and what was found."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pipeline.checklist.facts import Facts

Section = Literal["Kafka", "SQS", "General"]


class Status(StrEnum):
    """What became of a line."""

    PASS = "PASS"  # noqa: S105 - no password
    #: It works, and something about it should be known or mended.
    WARN = "WARN"
    #: Not ready for production.
    FAIL = "FAIL"
    #: It does not apply, or these services cannot tell.
    SKIP = "SKIP"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found."""

    status: Status
    #: What was read: the setting, the client's configuration, the service's answer.
    evidence: str
    #: What to do about it; empty for PASS.
    mend: str = ""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A line to check."""

    #: "<section>.<words>": what other tools refer to.
    id: str
    section: Section
    #: The checklist's own words.
    title: str
    check: Callable[[Facts], Finding]
    #: The service it asks; with its side switched off the line is skipped.
    asks: Literal["kafka", "sqs"] | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line that was checked. Its fields are those of ``pipeline check --json``."""

    id: str
    section: Section
    title: str
    status: Status
    evidence: str
    mend: str


def passed(evidence: str) -> Finding:
    """As it should be."""
    return Finding(status=Status.PASS, evidence=evidence)


def warned(evidence: str, mend: str) -> Finding:
    """It works; to be known or mended."""
    return Finding(status=Status.WARN, evidence=evidence, mend=mend)


def failed(evidence: str, mend: str) -> Finding:
    """Not ready for production."""
    return Finding(status=Status.FAIL, evidence=evidence, mend=mend)


def skipped(evidence: str, mend: str = "") -> Finding:
    """It does not apply, or cannot be told here."""
    return Finding(status=Status.SKIP, evidence=evidence, mend=mend)
