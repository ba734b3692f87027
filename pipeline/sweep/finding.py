"""What a sweep found."""

from dataclasses import dataclass
from typing import Literal

#: "explained": a dead letter without a reason has one now. "closed": what had ended was closed. "recorded":
#: dead letters its job did not know of are recorded. "waiting": its tasks or events wait, or run, or
#: a dead letter that somebody looks at may be its own. "redrive": a redrive of its dead letters was cut
#: short. "lost": nothing of it is anywhere. "failed": it could not be looked at, or mended.
Kind = Literal["explained", "closed", "recorded", "waiting", "redrive", "lost", "failed"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found, and what was done about it."""

    kind: Kind
    #: None for a dead letter of no job.
    job_id: str | None
    #: For people.
    text: str
