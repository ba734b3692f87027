"""Redaction of secrets in log lines, and in the messages and tracebacks of failures.

A secret is recognised by its form (tokens of known services, private keys, passwords in URLs) or by its name
(``password=…``, ``"secretId": "…"``, ``--token …``, ``Authorization: …``). This is the last line of defence:
a secret with neither is not found, so this project holds its own secrets as ``SecretStr``.

Text may come from outside, made to be slow to search. So it is cut first, and every pattern takes linear
time: after a repeat without a bound nothing may fail, because the search would start again behind its start.

detect-secrets is not used: a scanner of source code, it takes a millisecond for a log line, its time is
quadratic, and its last release is of 2024.
"""

import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from pipeline.wire.secretnames import is_counted, is_header, is_prose, is_secret, words_of

#: Replaces a secret.
REDACTED: Final = "[redacted]"

#: Characters of one text that are searched and kept: more than any message or traceback that is kept whole.
LIMIT: Final = 64_000
#: Characters before the cut in which the word that it falls into is dropped: half a token has no known form.
_WORD: Final = 200

#: Levels of nested values that are searched; deeper ones are searched as text.
DEPTH: Final = 6

# ─── By name ───

#: A name before its separator, with its closing quote, which is escaped in nested text; or an option.
_NAME: Final = re.compile(
    r"(?<![\w-])(?:([\w-]{1,200}+)(\\{0,15}[\"'])?\s{0,8}+(=(?!=)>?|:(?!//)|,)|(--?[A-Za-z][\w-]{1,200}+)(?=\s{1,8}[^\s-]))"
)
#: Before a value: spaces, and the mark of a block in YAML.
_LEAD: Final = re.compile(r"(?:\s{0,8}[|>][+-]?(?=\s))?\s{0,16}")
#: One piece of a value. Each alternative starts with another character.
_PIECE: Final = re.compile(
    # In quotes, up to the same quote, escaped as often as it is; or to the end.
    r"(?P<quoted>(\\{0,15})([\"'])(?:(?!(?<!\\)\2\3).)*+(?:\2\3)?)"
    r"|(?P<opening>[\[({])|(?P<closing>[\])}])"
    # A separator belongs to the value where it does not begin what follows it.
    r"|(?P<end>[\s<>]|\\[nrt]|[,;&](?=[\s\"'\\]|[\w.-]{1,64}+[=:]|$))"
    r"|[,;&]|\\|[^\s<>\\\"'\[\](){},;&]++",
    re.DOTALL,
)
#: The value of a header: the rest of its line, or of the quotes that it stands in.
_LINE: Final = re.compile(r"(?:=\"[^\"\r\n]*+\"?|[^\r\n\"'])*+")
#: What tells a token from a word of prose: "token: 3f…", not "token: expected …".
_TOKEN: Final = re.compile(r"(?=[^\s\d]{0,60}\d)\S{8}")
#: A value in a string prefix of Python: b'…'.
_PREFIX: Final = re.compile(r"[bBrRuUfF]{1,2}")


def _redact_named(text: str) -> str:
    """Replace the values of secret names."""
    parts, at = [], 0
    for found in _NAME.finditer(text):
        if found.start() < at:
            continue
        name, quote, separator, option = found.groups()
        words = words_of(option or name)
        if not is_secret(words):
            continue
        if separator == "," and not _is_pair(text, found):
            continue
        start = _end(_LEAD, text, found.end())
        if separator == ":" and not quote and is_header(words):
            end = _end(_LINE, text, start)
        elif separator == ":" and not quote and is_prose(words) and not _TOKEN.match(text, start):
            continue
        else:
            end = _end_of_value(text, start)
        if start == end or (is_counted(words) and text[start:end].isdecimal()):
            continue
        parts += [text[at:start], REDACTED]
        at = end
    return "".join([*parts, text[at:]])


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Return where a pattern that matches anywhere ends."""
    found = pattern.match(text, start)
    assert found is not None
    return found.end()


def _end_of_value(text: str, start: int) -> int:
    """Return where the value that begins at ``start`` ends: a word, quotes, or brackets that are balanced."""
    at, depth = start, 0
    while piece := _PIECE.match(text, at):
        kind = piece.lastgroup
        if depth == 0:
            if kind == "quoted":
                return piece.end() if at == start or _PREFIX.fullmatch(text, start, at) else at
            if kind == "end" or (kind == "closing" and not text[piece.end() : piece.end() + 1].isalnum()):
                return at
        if kind == "opening":
            depth += 1
        elif kind == "closing" and depth:
            depth -= 1
        at = piece.end()
    return at


def _is_pair(text: str, found: re.Match[str]) -> bool:
    """Whether a comma may separate a name from its value: after an option, or where a list begins."""
    name, quote = found[1], found[2]
    before = found.start() - len(quote or "") - 1
    return bool(quote) and (name.startswith("-") or (before >= 0 and text[before] in "(["))


# ─── By form ───


def _without_password(url: re.Match[str]) -> str:
    before, at, after = url[2].rpartition("@")
    return f"{url[1]}{REDACTED}@{after}" if at and before else url[0]


def _without_jwt(word: re.Match[str]) -> str:
    parts = word[0].split(".")
    return REDACTED if len(parts) > 1 and min(map(len, parts[:2])) > 8 else word[0]


#: The forms of tokens, as gitleaks' rules (MIT) have them for the services in wide use.
_TOKENS: Final = "|".join(
    (
        r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",
        r"AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}",  # Google
        r"[\w~.]{3}\dQ~[\w~.-]{31,34}",  # Azure
        r"hv[sbr]\.[\w-]{20,}",  # Vault
        r"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{20,}",
        r"gl(?:pat|dt|rt|ptt|oas|cbt)-[\w-]{20,}",  # GitLab
        r"ATATT3[\w=-]{20,}|ATBB[A-Za-z0-9]{24,}",  # Atlassian
        r"xox[a-z]-[\w-]{10,}|xapp-[\w-]{10,}",  # Slack
        r"[srp]k_(?:live|test|prod)_[A-Za-z0-9]{10,}|whsec_[\w+/=]{20,}",  # Stripe
        r"sq0(?:atp|csp)-[\w-]{20,}|EAAA[\w-]{56,}",  # Square
        r"access_token\$(?:production|sandbox)\$[0-9a-z$]{20,}",  # PayPal
        r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32,}",  # Shopify
        r"npm_[A-Za-z0-9]{36,}|pypi-[\w-]{40,}|dckr_[op]at_[\w-]{20,}",
        r"SG\.[\w-]{16,32}\.[\w-]{16,}|SK[0-9a-f]{32}|key-[0-9a-z]{32}",  # SendGrid, Twilio, Mailgun
        r"do[oprt]_v1_[0-9a-f]{64}|dapi[0-9a-f]{32,}|glsa_\w{32,}",  # DigitalOcean, Databricks, Grafana
        r"sk-[\w-]{20,}|hf_[A-Za-z]{30,}",  # model services
    )
)

#: Up to the next row of dashes, which ends it.
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY[A-Z ]{0,10}-----(?:[^-]|-(?!----))*+")

#: Each pattern with its replacement.
_FORMS: Final[tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]] = (
    (re.compile(r"(?i)(?<![A-Za-z0-9])(bearer|basic)\s{1,8}[A-Za-z0-9+/_.~=-]{8,}"), rf"\1 {REDACTED}"),
    # https://user:password@host, not https://host:port/…@…. A password may hold "@" and "/".
    (
        re.compile(r"(://[^\s/:@\"']{0,200}+:)(?!\d{1,5}(?:[/?#\s]|$))((?:(?!://)[^\s\"<>])*+)"),
        _without_password,
    ),
    (re.compile(r"(https?://)[^\s/:@\"'<>]{1,500}+@"), rf"\1{REDACTED}@"),
    (re.compile(r"(?<![A-Za-z0-9])eyJ[\w-]*+(?:\.[\w-]*+)*+"), _without_jwt),
    (re.compile(rf"(?<![A-Za-z0-9])(?:{_TOKENS})"), REDACTED),
)

#: Every secret needs at least one of these: part of a name, in any case, or of a form. A text without any is
#: not searched further, which is many times as fast: a worker writes a line for each task.
_NAME_HINTS: Final = (
    *("pass", "pwd", "secret", "key", "token", "credential", "sig", "authorization", "cookie", "otp"),
    *("bearer", "basic"),
)
_FORM_HINTS: Final = (
    *("://", "eyJ", "PRIVATE KEY", "AKIA", "ASIA", "ABIA", "ACCA", "AIza", "ya29.", "GOCSPX-", "Q~"),
    *("hvs.", "hvb.", "hvr.", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    *("glpat-", "gldt-", "glrt-", "glptt-", "gloas-", "glcbt-", "ATATT3", "ATBB", "xox", "xapp-"),
    *("k_live_", "k_test_", "k_prod_", "whsec_", "sq0", "EAAA", "shpat_", "shpca_", "shppa_", "shpss_"),
    *("npm_", "pypi-", "dckr_", "SG.", "SK", "_v1_", "dapi", "glsa_", "sk-", "hf_"),
)

#: Values that have no other values inside.
_SIMPLE: Final = (str, int, float, type(None))

# ─── Redaction ───


def redact(text: str) -> str:
    """Return ``text`` with its secrets replaced, unchanged if it has none; cut at ``LIMIT``."""
    if len(text) > LIMIT:
        return _search(_cut(text)) + f"… [{len(text):,} characters]"
    return _search(text)


def redact_values(values: Mapping[str, Any], depth: int = DEPTH) -> dict[str, Any]:
    """Return a mapping without secrets: those under a secret name, and those within other values.

    Values that are neither text, numbers nor collections become text.
    """
    return {name: _redact_value(words_of(name), value, depth) for name, value in values.items()}


def redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Redact a log line (a structlog processor); place it after the one that renders the traceback."""
    if all(isinstance(value, _SIMPLE) for value in event.values()):
        text = "\n".join([*event, *map(str, event.values())])
        if len(text) <= LIMIT and not _may_hold_secrets(text):
            return event
    return redact_values(event)


def _search(text: str) -> str:
    if not _may_hold_secrets(text):
        return text
    # A private key has spaces and several lines, so it goes before names whose value it is.
    text = _redact_named(_PRIVATE_KEY.sub(REDACTED, text))
    for pattern, replacement in _FORMS:
        text = pattern.sub(replacement, text)
    return text


def _cut(text: str) -> str:
    """Return the beginning of a long text, without the word that the cut falls into."""
    kept = text[: LIMIT - _WORD]
    last = max(kept.rfind(space, LIMIT - 2 * _WORD) for space in " \n\t,;\"'")
    return kept[: last + 1] if last >= 0 else kept[:-_WORD]


def _may_hold_secrets(text: str) -> bool:
    # Plain loops: this runs for each log line, and generators cost a third more.
    small = text.lower()
    for hint in _NAME_HINTS:
        if hint in small:
            return True
    for hint in _FORM_HINTS:  # noqa: SIM110 - as above
        if hint in text:
            return True
    return False


def _redact_value(words: str, value: Any, depth: int) -> Any:
    """Return a value without secrets; ``words``: those of its name."""
    if value is None or isinstance(value, bool) or (isinstance(value, str | bytes) and not value):
        return value
    is_number = isinstance(value, int | float)
    if is_secret(words) and not (is_number and is_counted(words)):
        return REDACTED
    if is_number:
        return value
    if depth and isinstance(value, Mapping):
        return redact_values({str(key): each for key, each in value.items()}, depth - 1)
    if depth and isinstance(value, list | tuple | set | frozenset):
        return _redact_items(list(value), depth - 1)
    return redact(_text(value))


def _redact_items(items: Sequence[Any], depth: int) -> list[Any]:
    """Redact a list. An item names the next one in a list of two, and where it is an option (``--token``)."""
    redacted, words = [], ""
    for item in items:
        redacted.append(_redact_value(words, item, depth))
        is_name = isinstance(item, str) and (len(items) == 2 or item.startswith("-"))
        words = words_of(item) if is_name else ""
    return redacted


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return value[: LIMIT + 1].decode(errors="backslashreplace")
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - an object's own __repr__ may do anything
        return f"<{type(value).__qualname__}: its __repr__ raised {type(error).__qualname__}>"
