"""Figures: prices, quotas and measured numbers, each with its source and date."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that this project does not decide."""

    value: float
    #: The thing it counts.
    unit: str
    #: The document it is from, or how it was measured or assumed.
    source: str
    #: When it was published, measured or assumed: YYYY-MM-DD.
    date: str
