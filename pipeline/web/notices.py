"""Notices: the outcome of an action in words, and the page that shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.client.submission import SubmittedJob
from pipeline.jobs import Job, JobState
from pipeline.web.model import ReplayTally, Tally, Trouble
from pipeline.web.requests import JobRequest, LettersRequest, ReplayRequest, SubmitRequest

#: Troubles that one notice lists.
LISTED = 3

_COUNTS = {
    "redriven": "{} redriven",
    "removed": "{} removed, because their tasks are done",
    "purged": "{} purged",
    "skipped": "{} skipped",
    "failed": "{} failed",
}


@dataclass(frozen=True, kw_only=True)
class Notice:
    """The outcome of an action, shown above a page."""

    #: As the style sheet colours it.
    kind: Literal["done", "waits", "failed"]
    title: str
    text: str = ""
    #: The path of the page.
    page: str


def submit_notice(_: SubmitRequest, job: SubmittedJob) -> Notice:
    """Describe a submitted job."""
    return Notice(kind="done", title="Submitted", page=f"/jobs/{job.job_id}")


def cancel_notice(_: JobRequest, job: Job) -> Notice:
    """Describe a cancellation."""
    page = f"/jobs/{job.job_id}"
    if job.state is JobState.CANCELLED:
        return Notice(kind="done", title="Cancelled", page=page)
    return Notice(kind="waits", title="Not cancelled", text="The job has already ended.", page=page)


def replay_notice(request: ReplayRequest, tally: ReplayTally) -> Notice:
    """Describe a replay."""
    page = f"/jobs/{tally.job_id}"
    troubles = _troubles(tally.troubles)
    if tally.sent:
        return Notice(
            kind="done", title=f"The task of {request.stage} was sent again", text=troubles, page=page
        )
    reason = troubles or (
        "Kafka no longer has the event." if tally.finished else "The topic was not read to its end in time."
    )
    return Notice(kind="failed", title="Nothing was sent", text=reason, page=page)


def job_redrive_notice(request: JobRequest, tally: Tally) -> Notice:
    """Describe a redrive of a job."""
    return _letters_notice(tally, f"/jobs/{request.job_id}")


def letters_notice(_: LettersRequest, tally: Tally) -> Notice:
    """Describe a redrive or a purge of dead letters."""
    return _letters_notice(tally, "/dead-letters")


def _letters_notice(tally: Tally, page: str) -> Notice:
    counted = [
        text.format(f"{tally.counts[name]:,}") for name, text in _COUNTS.items() if tally.counts.get(name)
    ]
    if not counted and tally.finished:
        return Notice(
            kind="waits",
            title="No such dead letter was found",
            text="Another person may be looking at it now.",
            page=page,
        )
    text = _troubles(tally.troubles)
    if not tally.finished:
        text = f"There are more: repeat the action. {text}"
    return Notice(
        kind="failed" if tally.counts.get("failed") else "waits" if text else "done",
        title=", ".join(counted) or "Nothing was done yet",
        text=text,
        page=page,
    )


def _troubles(troubles: Sequence[Trouble]) -> str:
    more = f" And {len(troubles) - LISTED:,} more." if len(troubles) > LISTED else ""
    return " ".join(f"{each.id}: {each.why}." for each in troubles[:LISTED]) + more
