"""Text for terminals: data cannot control them."""

import re
from typing import Final

#: What is looked at one by one: most text has none of it.
_UNUSUAL: Final = re.compile(r"[^\n\t -~]")


def clean(text: str) -> str:
    """Replace what is not printed: escapes, control characters of eight bits, changes of direction."""
    return _UNUSUAL.sub(lambda found: found[0] if found[0].isprintable() else "\ufffd", text)


def clean_json(text: str) -> str:
    """Write in JSON text as escapes what is not printed: the values stay the same."""
    return _UNUSUAL.sub(lambda found: found[0] if found[0].isprintable() else _escape(found[0]), text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
