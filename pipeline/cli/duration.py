"""Durations as people type them: 90s, 30m, 2h, 7d."""

import re
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)


def is_duration(text: str) -> bool:
    """Whether a text is a number and a unit."""
    return _PATTERN.fullmatch(text) is not None


class Duration(click.ParamType[float]):
    """Seconds, from a number and a unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; fails with the four units."""
        if isinstance(value, float):
            return value
        match = _PATTERN.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is no duration. Write 90s, 30m, 2h or 7d.", param, ctx)
        return float(match[1]) * _UNITS[match[2]]
