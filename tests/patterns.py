"""The structure of a regular expression: whether it takes linear time, whatever the text."""

import re
from re import _constants, _parser
from typing import Any

_REPEATS = {_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT}


def is_linear(pattern: str, flags: int = 0) -> bool:
    """Whether nothing can fail after a repeat without a bound, or makes one inside of it back up."""
    return _is_linear(list(_parser.parse(pattern, flags & ~re.DEBUG)), last=True)


def _is_linear(items: list[Any], last: bool) -> bool:
    """``last``: whether all that may follow these items matches the empty text as well."""
    for at, (kind, value) in enumerate(items):
        ends = last and all(_may_be_empty(item) for item in items[at + 1 :])
        if kind in _REPEATS:
            _, most, inside = value
            unbounded = most is _constants.MAXREPEAT
            if unbounded and not ends:
                return False
            # Inside of a repeat that gives nothing back, each turn ends as well.
            if not _is_linear(
                list(inside), last=ends and (not unbounded or kind is _constants.POSSESSIVE_REPEAT)
            ):
                return False
        elif not all(_is_linear(list(branch), last=ends) for branch in _branches(kind, value)):
            return False
    return True


def _branches(kind: Any, value: Any) -> list[Any]:
    if kind is _constants.SUBPATTERN:
        return [value[-1]]
    if kind is _constants.BRANCH:
        return list(value[1])
    if kind in (_constants.ASSERT, _constants.ASSERT_NOT):
        # What is looked for must be found in bounded time: nothing in it counts as last.
        return [[*value[1], (_constants.FAILURE, None)]]
    if kind is _constants.ATOMIC_GROUP:
        return [value]
    return []


def _may_be_empty(item: tuple[Any, Any]) -> bool:
    kind, value = item
    if kind in _REPEATS:
        return bool(value[0] == 0)
    return kind is _constants.SUBPATTERN and all(map(_may_be_empty, value[-1]))
