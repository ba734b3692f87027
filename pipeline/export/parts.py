"""What both exports are made of: the needs with names that stand in a template, and attributes as values."""

import re
from collections.abc import Iterable, Mapping

#: Attributes of a queue that are true or false, and that are numbers; SQS itself takes all as text.
_SWITCHES = frozenset({"ContentBasedDeduplication", "FifoQueue"})
_NUMBERS = frozenset(
    {"MaximumMessageSize", "MessageRetentionPeriod", "ReceiveMessageWaitTimeSeconds", "VisibilityTimeout"}
)

Value = str | int | bool


def values(attributes: Mapping[str, str]) -> dict[str, Value]:
    """A queue's attributes with their true types."""
    return {name: _value(name, text) for name, text in attributes.items()}


def _value(name: str, text: str) -> Value:
    if name in _SWITCHES:
        return text == "true"
    return int(text) if name in _NUMBERS else text


def labels(names: Iterable[str], separator: str) -> dict[str, str]:
    """A label for each name: its words, joined; a number after it where two would be the same."""
    found: dict[str, str] = {}
    for name in names:
        words = [word for word in re.split(r"[^A-Za-z0-9]+", name.removesuffix(".fifo")) if word]
        label = separator.join(words) if separator else "".join(word[0].upper() + word[1:] for word in words)
        taken = set(found.values())
        found[name] = next(
            each for n in range(1, len(taken) + 2) if (each := f"{label}{n if n > 1 else ''}") not in taken
        )
    return found
