"""Names that say that their value is a secret: of fields, settings, options and headers."""

import re
from typing import Final

#: Where a word begins inside a name in camel case.
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

#: Words and pairs of words that make a name secret, wherever they stand in it ("KAFKA_SASL_PASSWORD",
#: "clientSecret", "secret_id"): one name too many costs a value in a log, one too few a password.
_SECRET: Final = re.compile(
    r"passw(?:or)?d|passphrase|passcode|secret|credential|authorization|signature|cookie"
    r"|(?:pwd|token|(?<![a-z])pass|(?<![a-z])otp|(?<![a-z])sig)s?(?![a-z])"
    r"|(?:access|account|api|auth|client|encryption|master|private|service|session|shared|signing)_?keys?(?![a-z])"
)

#: Last words of names that tell of a secret without holding it.
_ABOUT: Final = re.compile(
    r"_(?:age|arn|at|count|endpoint|expires|expiry|file|in|length|limit|location|mechanism|name|path"
    r"|policy|size|ttl|type|uri|url)$"
)

#: Names that are words of prose as well ("unexpected token: …").
_PROSE: Final = frozenset(
    {"authorization", "cookie", "cookies", "credential", "credentials", "otp", "pass", "passes"}
    | {"sig", "signature", "signatures", "token", "tokens"}
)

#: Names of quantities: tokens of a text are counted, those of a login not.
_COUNTED: Final = re.compile(r"(?<!access_)(?<!api_)(?<!auth_)(?<!id_)(?<!refresh_)(?<!session_)tokens$")

#: Headers whose value has several words.
_HEADERS: Final = frozenset({"authorization", "proxy_authorization", "cookie", "set_cookie"})


def words_of(name: str) -> str:
    """Return a name in lower case, with its words separated by underscores."""
    return _CAMEL.sub("_", name.strip("-")).replace("-", "_").lower()


def is_secret(words: str) -> bool:
    """Whether the value of a name (its ``words_of``) is a secret."""
    return _SECRET.search(words) is not None and _ABOUT.search(words) is None


def is_counted(words: str) -> bool:
    """Whether a number under this name is a quantity."""
    return _COUNTED.search(words) is not None


def is_prose(words: str) -> bool:
    """Whether prose may have this name before a colon."""
    return words in _PROSE


def is_header(words: str) -> bool:
    """Whether the value of this header is the rest of its line."""
    return words in _HEADERS
