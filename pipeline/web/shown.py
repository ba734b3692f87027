"""What came from outside, so that it can be told: JSON in UTF-8 takes less than Python's values hold."""

import math
from collections.abc import Mapping
from typing import Any

#: Levels of lists and objects that are shown as such.
DEEPEST = 50


def shown(value: Any, depth: int = 0) -> Any:
    """The same with text that is UTF-8, numbers that are numbers, and an end to its depth."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not isinstance(value, Mapping | list):
        return value
    if depth == DEEPEST:
        return "…"
    if isinstance(value, list):
        return [shown(each, depth + 1) for each in value]
    return {shown(str(name)): shown(each, depth + 1) for name, each in value.items()}
