"""What became of an action, in words."""

from collections.abc import Sequence

from pipeline.web.model import ReplayTally, Tally, Trouble
from pipeline.web.pages.frame import Said

#: Troubles that are told in one notice.
SHOWN = 3

_WORDS = {
    "redriven": "{} redriven",
    "removed": "{} removed, because their tasks are done",
    "purged": "{} purged",
    "skipped": "{} skipped",
    "failed": "{} failed",
}


def told(tally: Tally) -> Said:
    """Of a redrive or a purge."""
    words = [
        text.format(f"{tally.counts[name]:,}") for name, text in _WORDS.items() if tally.counts.get(name)
    ]
    if not words and tally.finished:
        return Said(kind="waits", title="There was no such dead letter", text="Somebody may look at it now.")
    text = _troubles(tally.troubles)
    if not tally.finished:
        text = f"There are more: do it again. {text}"
    kind = "failed" if tally.counts.get("failed") else "waits" if text else "done"
    return Said(kind=kind, title=", ".join(words) or "Nothing was done yet", text=text)


def told_replay(tally: ReplayTally, stage: str) -> Said:
    """Of a replay."""
    if tally.sent:
        return Said(kind="done", title=f"Its task in {stage} was sent again", text=_troubles(tally.troubles))
    why = _troubles(tally.troubles) or (
        "Kafka has its event no longer." if tally.finished else "The topic was not read to its end in time."
    )
    return Said(kind="failed", title="Nothing was sent", text=why)


def _troubles(troubles: Sequence[Trouble]) -> str:
    more = f" And {len(troubles) - SHOWN:,} more." if len(troubles) > SHOWN else ""
    return " ".join(f"{each.id}: {each.why}." for each in troubles[:SHOWN]) + more
