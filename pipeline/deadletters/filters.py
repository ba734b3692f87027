"""Which dead letters are meant: by stage, job, exception, age, place or name."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from pipeline.deadletters.letter import DeadLetter, Place


@dataclass(frozen=True, kw_only=True)
class Filter:
    """All that is given must hold; a filter without anything means every dead letter."""

    stage: str | None = None
    job_id: str | None = None
    #: The exception's class, with or without its module; * stands for anything.
    error: str | None = None
    #: Given up on before, or since, that moment (seconds since 1970).
    before: float | None = None
    since: float | None = None
    place: Place | None = None
    #: As ``DeadLetter.names`` has them.
    ids: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether it means every dead letter, wherever it is."""
        return self == Filter()

    def __call__(self, letter: DeadLetter) -> bool:
        """Whether a dead letter is meant."""
        return (
            (not self.ids or not self.ids.isdisjoint(letter.names()))
            and self.stage in (None, letter.stage)
            and self.job_id in (None, letter.job_id)
            and self.place in (None, letter.place)
            and (self.error is None or _is_error(letter.error, self.error))
            and (self.before is None or letter.failed_at < self.before)
            and (self.since is None or letter.failed_at >= self.since)
        )


def _is_error(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rsplit(".", 1)[-1], pattern)
