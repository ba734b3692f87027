"""Findings of the sweep."""

from dataclasses import dataclass
from typing import Literal

#: "explained": a dead letter without a reason has one now. "closed": an ended split or job was closed.
#: "recorded": dead letters that its job did not know are recorded. "waiting": its tasks or events wait or
#: run, or a dead letter that another process reads may be its own. "redrive": a redrive of its dead letters
#: was cut short. "lost": nothing of it is anywhere. "failed": it could not be examined or repaired.
Kind = Literal["explained", "closed", "recorded", "waiting", "redrive", "lost", "failed"]

#: Findings that the sweep cannot mend.
STANDS_STILL: frozenset[Kind] = frozenset({"redrive", "lost", "failed"})


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding of a sweep, and its repair."""

    kind: Kind
    #: None for a dead letter of no job.
    job_id: str | None
    #: For people.
    text: str
