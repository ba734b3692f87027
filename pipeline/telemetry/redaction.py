"""Takes secrets out of what is written down: log lines, messages and tracebacks in error events.

By pattern: what is a secret by its form (keys of AWS, tokens, private keys, passwords in URLs) or by its name
(``password=…``, ``"secret_id": "…"``, ``Authorization: …``). It is the last net. A secret with neither is not
found, so secrets are ``SecretStr`` where this project holds them.
"""

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

#: What stands in a secret's place.
REDACTED = "[redacted]"

#: How deep nested values of a log line are looked into.
DEPTH = 6

_STRONG = "password|passwd|passphrase|pwd|secret|api[_-]?key|access[_-]?key|private[_-]?key"
_WEAK = "token|credentials?|signature|authorization"

#: After a name: what is left of it, and its own quote, which may be escaped in text inside text.
_REST = r"[\w-]{0,40}"
_QUOTE = r"\\{0,3}[\"']"
#: A value: one that was redacted before, in quotes, or up to what ends a word.
_VALUE = rf"(?:\[redacted\]|({_QUOTE}).{{0,2000}}?\{{group}}|[^\s\"'\\&,;<>)}}\]]+)"


def _value(group: int) -> str:
    return _VALUE.replace(r"\{group}", f"\\{group}")


#: Each with what replaces it. None looks further than a bounded way from where it began: text may be long.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"-----BEGIN ([A-Z ]{0,30}PRIVATE KEY)-----[^-]{0,20000}(?:-----END \1-----)?"),
        REDACTED,
    ),
    # name=value, but no comparison; in quotes also name: value.
    (
        re.compile(rf"(?i)((?:{_STRONG}|{_WEAK}){_REST}\s{{0,3}}=(?!=)\s{{0,3}}){_value(2)}"),
        rf"\1{REDACTED}",
    ),
    (
        re.compile(rf"(?i)((?:{_STRONG}|{_WEAK}){_REST}{_QUOTE}\s{{0,3}}:\s{{0,3}}){_value(2)}"),
        rf"\1{REDACTED}",
    ),
    (re.compile(rf"(?i)((?:{_STRONG}){_REST}\s{{0,3}}:\s{{0,3}}){_value(2)}"), rf"\1{REDACTED}"),
    # Headers, whose value is the rest of the line.
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]{0,40}(?:token|key))(\s?:\s?)[^\r\n\"']+"
        ),
        rf"\1\2{REDACTED}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_.~=-]{8,}"), rf"\1 {REDACTED}"),
    # https://user:password@host
    (re.compile(r"(://[^\s/:@\"']{0,200}:)[^\s/@\"']{1,500}(?=@)"), rf"\1{REDACTED}"),
    # Forms: access keys of AWS, JSON web tokens, tokens of Vault, GitHub and Slack, keys of model services.
    (
        re.compile(
            r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}"
            r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
            r"|hv[sbr]\.[\w-]{20,}"
            r"|gh[pousr]_[A-Za-z0-9]{30,}"
            r"|xox[abprs]-[\w-]{10,}"
            r"|sk-[\w-]{20,})"
        ),
        REDACTED,
    ),
)

#: What every pattern needs some of, in small letters. A text without any is done with after one look, which
#: is some thirty times as fast as the patterns: a worker writes a line for each task.
_HINTS = (
    *("passw", "passphrase", "pwd", "secret", "key", "token", "credential", "signature", "authorization"),
    *("cookie", "bearer", "basic", "://", "akia", "asia", "eyj", "hvs.", "hvb.", "hvr."),
    *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "xox", "sk-"),
)
_NAME = re.compile(rf"(?i)(?:^|_|-)(?:{_STRONG}|token|credentials|authorization)$")


def redact(text: str) -> str:
    """``text`` without secrets. What has none is returned as it is."""
    if not _may_hold_secrets(text):
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_values(values: Mapping[str, Any], depth: int = DEPTH) -> dict[str, Any]:
    """A mapping without secrets: text under a secret's name, and what is found in all other text."""
    return {name: _redacted(name, value, depth) for name, value in values.items()}


def redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor, to stand after the traceback has become text."""
    simple = all(isinstance(value, str | int | float | None) for value in event.values())
    if simple and not _may_hold_secrets("\n".join([*event, *map(str, event.values())])):
        return event
    return redact_values(event)


def _may_hold_secrets(text: str) -> bool:
    small = text.lower()
    return any(hint in small for hint in _HINTS)


def _redacted(name: str, value: Any, depth: int) -> Any:
    if isinstance(value, str | bytes) and value and _NAME.search(name):
        return REDACTED
    if isinstance(value, str):
        return redact(value)
    if depth == 0:
        return value
    if isinstance(value, Mapping):
        return redact_values({str(key): each for key, each in value.items()}, depth - 1)
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", each, depth - 1) for each in value]
    if isinstance(value, BaseException):
        return redact(repr(value))
    return value
