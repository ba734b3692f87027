"""One finding of ``pipeline migrate check``."""

from dataclasses import dataclass
from typing import Final, Literal

#: ``error``: it does not work here, or is refused. ``warning``: it works in another way. ``note``: it has no
#: effect here, or is worth knowing.
Level = Literal["error", "warning", "note"]
LEVELS: Final[tuple[Level, ...]] = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that differs here, and what to do about it."""

    level: Level
    #: The setting, task, queue or call that it is about.
    about: str
    #: What differs.
    what: str
    #: What to do; empty where nothing is to be done.
    mend: str = ""
    #: File and line, relative to the working folder; None for a setting.
    where: str | None = None
