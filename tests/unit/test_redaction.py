"""Secrets are removed from written text; everything else stays unchanged."""

import io
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.telemetry import logs
from pipeline.wire import redaction
from pipeline.wire.failure import ErrorEvent
from pipeline.wire.redaction import LIMIT, REDACTED, redact, redact_event, redact_values
from pipeline.worker.child.outcome import failed

KEY_ID = "AKIA" + "IOSFODNN7EXAMPLE"
JWT = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIHmS3cr3t\nAwEHoUQ\n-----END EC PRIVATE KEY-----"

#: Text, and what must not be left of it.
SECRETS = {
    "aws key id": (f"denied for {KEY_ID} here", KEY_ID),
    "aws secret": ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalr"),
    "aws token": ("?X-Amz-Security-Token=FwoGZXIvYXdz%2F&X-Amz-Date=1", "FwoGZ"),
    "aws signature": ("X-Amz-Signature=9d7c0f4a&x=1", "9d7c0f4a"),
    "environment": ("KAFKA_SASL_PASSWORD=hunter2 started", "hunter2"),
    "keyword": ("connect(user='a', password='hunter2 with space')", "hunter2 with space"),
    "json": ('{"secret_id": "hunter2", "a": 1}', "hunter2"),
    "json in json": (json.dumps({"body": json.dumps({"access_token": "hunter2"})}), "hunter2"),
    "json in json in json": (
        json.dumps(json.dumps(json.dumps({"client_secret": "hun ter2"}))),
        "hun ter2",
    ),
    "dict": ("{'api_key': 'hunter2'}", "hunter2"),
    "yaml": ("  password: hunter2\n", "hunter2"),
    "url": ("postgresql://alice:hunter2@db:5432/x", "hunter2"),
    "url without user": ("redis://:hunter2@cache/0", "hunter2"),
    "bearer": ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
    "bearer alone": ("sent bearer 0123456789abcdef", "0123456789abcdef"),
    "basic": ("'Authorization': 'Basic YWxpY2U6aHVudGVyMg=='", "YWxpY2U6"),
    "header": ("X-Vault-Token: s.1234567890", "s.1234567890"),
    "cookie": ("Set-Cookie: session=abc; Path=/", "abc"),
    "jwt": (f"token {JWT} expired", JWT),
    "vault": ("hvs.CAESIJ0123456789abcdefghij", "CAESIJ"),
    "private key": (f"key:\n{PEM}\n", "MHcCAQEE"),
    "cut private key": (PEM[:60], "MHcCAQEE"),
    "command": ("mysql --password=hunter2 -h db", "hunter2"),
    "option": ("Command 'mysql --password hunter2 -h db' returned 1", "hunter2"),
    "arguments": ("['psql', '--password', 'hunter2']", "hunter2"),
    "pair": ("[('password', 'hunter2')]", "hunter2"),
    "bytes": ("{b'password': b'hunter2'}", "hunter2"),
    "list": ("{'passwords': ['a', 'hunter2'], 'b': 1}", "hunter2"),
    "nested list": ("{'password': {'a': ['x'], 'b': 'hunter2'}}", "hunter2"),
    "tuple of arguments": ("password=('a', \"it's\", 'hunter2')", "hunter2"),
    "number": ('{"password": 1234567}', "1234567"),
    "comma inside": ("password=aa,hunter2", "hunter2"),
    "ampersand inside": ("password=aa&hunter2", "hunter2"),
    "bracket inside": ("password=aa)hunter2", "hunter2"),
    "quote inside": (json.dumps({"password": 'a"hunter2'}), "hunter2"),
    "quote without end": ('password="hunter2 and', "hunter2"),
    "five times json": (
        json.dumps(json.dumps(json.dumps(json.dumps(json.dumps({"pwd": "hunter2"}))))),
        "hunter2",
    ),
    "camel case": ("clientSecret=hunter2", "hunter2"),
    "camel case in json": ('{"accessToken":"hunter2"}', "hunter2"),
    "prefix in one word": ("PGPASSWORD=hunter2", "hunter2"),
    "block in yaml": ("password: |\n  hunter2", "hunter2"),
    "token in yaml": ("token: 0hunter2", "hunter2"),
    "azure account": ("AccountName=a;AccountKey=hunter2==;EndpointSuffix=x", "hunter2"),
    "azure signature": ("https://a.blob.core.windows.net/x?sv=1&sig=hunter2%3D", "hunter2"),
    "url, at inside": ("postgres://app:p@hunter2@db/x", "hunter2"),
    "url, slash inside": ("postgres://app:p/hunter2@db/x", "hunter2"),
    "url, quote inside": ("postgres://app:p'hunter2@db/x", "hunter2"),
    "url, token as user": ("https://hunter2@git.example/x.git", "hunter2"),
    "digest": ('Authorization: Digest username="u", response="hunter2"', "hunter2"),
    "jwt after a dash": (f"a-{JWT} b", JWT),
}

#: Tokens that nothing but their form tells, without anything that this file itself would be searched for.
TOKENS = [
    "ASIA" + "IOSFODNN7EXAMPLE",
    "AIza" + "a1B2c" * 7,
    "GOCSPX" + "-" + "a1B2" * 7,
    "abc8Q~" + "a1B2" * 8,
    "hvb." + "a1" * 15,
    *(kind + "_" + "a1B2" * 9 for kind in ("ghp", "gho", "ghu", "ghs", "ghr")),
    "github_pat" + "_11ABCDEFG0" + "a" * 40,
    *(kind + "-" + "a1B2c" * 4 for kind in ("glpat", "gldt", "glrt", "glptt", "gloas", "glcbt")),
    "ATATT3" + "xFfGF0" * 5,
    "ATBB" + "a1B2" * 7,
    "xoxb" + "-1234567890-" + "a1B2" * 5,
    "xapp" + "-1-A0-" + "a1B2" * 5,
    *(kind + "_live_" + "a1B2" * 6 for kind in ("sk", "rk", "pk")),
    "sk" + "_test_" + "a1B2" * 6,
    "whsec" + "_" + "a1B2" * 8,
    "sq0atp" + "-" + "a1B2c" * 5,
    "EAAA" + "a1B2c" * 12,
    "access_token$" + "production$a1b2$" + "a1b2" * 8,
    *(kind + "_" + "a1b2" * 8 for kind in ("shpat", "shpca", "shppa", "shpss")),
    "npm" + "_" + "a1B2" * 9,
    "pypi" + "-AgEIcHlwaS5vcmc" + "a1B2" * 20,
    "dckr" + "_pat_" + "a1B2c" * 6,
    "SG" + "." + "a1B2c-" * 4 + "." + "a1B2c_" * 7,
    "SK" + "0a1b2c3d" * 4,
    "key" + "-" + "0a1b2c3d" * 4,
    "dop" + "_v1_" + "0a1b2c3d" * 8,
    "dapi" + "0a1b2c3d" * 4,
    "glsa" + "_" + "a1B2" * 8,
    "sk" + "-proj-" + "a1B2" * 8,
    "hf" + "_" + "aBcD" * 9,
]

HARMLESS = [
    "Processing message order-7 of topic words [3] at offset 42",
    "Unexpected token } in JSON at position 3",
    "invalid token: expected ','",
    "if token == expected and secret != other:",
    "SSL_KEY_PASSWORD needs SSL_KEY_LOCATION",
    "KAFKA_SASL_MECHANISM=SCRAM-SHA-512 needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
    "GET https://example.org:8443/a?page=3 took 4 ms",
    "mailto:alice@example.org, see http://example.org/@alice",
    "arn:aws:sqs:eu-west-1:123456789012:orders.fifo",
    "3f786850e387550fdab836ed7e6dc881de23001b",
    "the basic idea",
    "token: expected 3 items",
    "Serving http://127.0.0.1:8080/jobs?mail=a@b",
    "max_tokens=4096, tokens: 17",
    "the secret is unknown: see the password, the token",
    "GET /oauth/token_endpoint, secret_name=orders/db password_file=/run/secrets/db",
    "passed: 10, bypass=1, monkey=2, tokenizer='bpe'",
    '{"document_id": "a", "pages": 3, "keys": ["b"]}',
]


@pytest.mark.parametrize("case", SECRETS)
def test_secrets_are_taken_out(case: str) -> None:
    """Each form of secret is gone, and that there was one is seen."""
    text, secret = SECRETS[case]
    assert secret in text
    assert secret not in redact(text)
    assert REDACTED in redact(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_everything_else_stays(text: str) -> None:
    """Text that only resembles a secret is not changed: a log must stay readable."""
    assert redact(text) == text


def test_what_surrounds_a_secret_stays() -> None:
    """User, host and the other parameters are what a person looks for."""
    assert redact("amqp://alice:hunter2@mq:5671/v") == f"amqp://alice:{REDACTED}@mq:5671/v"
    assert redact("a=1&password=hunter2&b=2") == f"a=1&password={REDACTED}&b=2"


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_alone_is_taken_out(token: str) -> None:
    """The form is enough, without a name near it: also the quick look at a log line sees it."""
    assert redact(f"a {token} b") == f"a {REDACTED} b"


PIECES = [
    *"=:'\"\\ \n@&;a,",
    "password",
    "token",
    "Bearer ",
    "://u:",
    "X-Api-Key: ",
    KEY_ID,
    JWT,
    PEM,
    REDACTED,
]


@given(*[st.lists(st.sampled_from(PIECES), max_size=12).map("".join)] * 2)
def test_nothing_around_it_hides_a_secret(before: str, after: str) -> None:
    """Whatever stands on the lines around it, open quotes and halves of other secrets included."""
    assert "hunter2" not in redact(f"{before}\npassword=hunter2\n{after}")


@pytest.mark.parametrize("case", SECRETS)
def test_it_is_the_same_twice(case: str) -> None:
    """Redacted text, such as an error event's message, does not change again."""
    once = redact(SECRETS[case][0])
    assert redact(once) == once


@given(st.text(min_size=1), st.text(max_size=20))
def test_text_is_cut_before_it_is_searched(part: str, secret: str) -> None:
    """However long a text is, a bounded part of it is searched, and the rest is not kept."""
    text = part * (3 * LIMIT // len(part))
    assert len(redact(text)) < LIMIT * (1 + len(REDACTED)) + 100
    assert len(redact("a " * LIMIT)) < LIMIT + 100


def test_a_cut_leaves_no_half_of_a_secret() -> None:
    """A token that the cut falls into would have no form any more."""
    for before in range(LIMIT - 30, LIMIT):
        text = "x" * (before - 1) + " " + "AKIA" + "IOSFODNN7EXAMPLE " * 3
        assert "AKIA" not in redact(text)


#: The beginnings of all patterns, what they repeat, and what ends them.
ATTACKS = [
    *(
        "-eyJ",
        "eyJ.",
        "eyJ",
        ".",
        "-",
        "_",
        "\\",
        '"',
        "'",
        "[",
        "(",
        "{",
        "]",
        ")",
        "}",
        ",",
        ";",
        "&",
        "=",
        ":",
    ),
    *("://", "://:", "://a:", "https://", "@", "a", "A", "0", " ", "\n", "\t", "x-", "X-Api-Key: ", "<", "|"),
    *(
        "password",
        "password=",
        'password="',
        "password=[",
        '"password",[ ',
        '["password",',
        '("password",(',
        "'--password',",
    ),
    *(
        "--password ",
        "password: ",
        "token: ",
        "token=",
        "tokens=1",
        "secret",
        "key",
        "--",
        "Cookie: ",
        'Cookie: ="',
    ),
    *("bearer ", "basic", "authorization:", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "PRIVATE KEY"),
    *(
        "AKIA",
        "Q~",
        "hvs.",
        "ghp_",
        "github_pat_",
        "glpat-",
        "xoxb-",
        "sk_live_",
        "sk-",
        "SG.",
        "SG.a",
        "SK0",
    ),
    *("npm_", "pypi-", "dapi", "shpat_", "EAAA", "whsec_", REDACTED),
]


def _seconds(text: str) -> float:
    """Return the processor time of one search without its cut, the best of three."""
    times = []
    for _ in range(3):
        began = time.process_time()
        redaction._search(text)
        times.append(time.process_time() - began)
    return min(times)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(ATTACKS), max_size=3).map("".join),
    st.lists(st.sampled_from(ATTACKS), min_size=1, max_size=4).map("".join),
    st.lists(st.sampled_from(ATTACKS), max_size=2).map("".join),
)
def test_the_time_is_linear(before: str, repeated: str, after: str) -> None:
    """Eight times the text takes about eight times as long, whatever it repeats; not sixty-four times."""
    small, large = (before + repeated * (size // len(repeated)) + after for size in (10_000, 80_000))
    # 40 ns a character on a slow machine, and some for the clock.
    assert _seconds(large) < max(20 * _seconds(small), 0.1)


@pytest.mark.parametrize("part", ATTACKS)
def test_no_text_takes_long(part: str) -> None:
    """A megabyte of anything takes a fraction of a second: as much of it is searched as is kept."""
    began = time.process_time()
    redact(part * (1_000_000 // len(part)))
    assert time.process_time() - began < 0.5


@dataclass
class Login:
    """An object that an author logs."""

    password: str


class Broken:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("hunter2")


#: Values of a log line or a header that hold hunter2 or 1234567.
VALUES: dict[str, Any] = {
    "object": {"login": Login("hunter2")},
    "objects": {"logins": [Login("hunter2")]},
    "exception": {"error": ValueError("password=hunter2")},
    "bytes": {"body": b"password=hunter2"},
    "not UTF-8": {"body": b"\xff password=hunter2"},
    "camel case": {"dbPassword": "hunter2", "clientSecret": "hunter2", "accessToken": "hunter2"},
    "names": {"secret_key": "hunter2", "signing-key": "hunter2", "secret_id": "hunter2", "Cookie": "hunter2"},
    "bytes as name": {"a": {b"password": b"hunter2"}},
    "number": {"password": 1234567, "pwd": 1234567.0},
    "list": {"passwords": ["hunter2"], "password": ("hunter2", 1)},
    "mapping": {"password": {"value": "hunter2"}},
    "pairs": {"headers": [("authorization", "hunter2"), ["x-api-key", "hunter2"]]},
    "arguments": {"command": ["psql", "--password", "hunter2", "--port=1"]},
    "one argument": {"command": ["psql", "--password=hunter2"]},
    "deep": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"password": "hunter2"}}}}}}}},
    "no text": {"broken": Broken()},
}


@pytest.mark.parametrize("case", VALUES)
def test_no_value_tells_a_secret(case: str) -> None:
    """Whatever the type of a value or of what it is in."""
    written = repr(redact_values(VALUES[case]))
    assert "hunter2" not in written
    assert "1234567" not in written


#: Each word that makes a name secret, in some of its forms.
SECRET_NAMES = [
    *(
        "password",
        "dbPassword",
        "DB_PASSWORD",
        "passwd",
        "passphrase",
        "passcode",
        "pass",
        "pwd",
        "otp",
        "sig",
    ),
    *(
        "client-secret",
        "credentials",
        "authorization",
        "signature",
        "set-cookie",
        "accessToken",
        "refresh_tokens",
    ),
    *("apiKey", "secretKey", "AccountKey", "private_key", "signing-key", "SharedAccessKey"),
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_the_quick_look_sees_every_secret_name(name: str) -> None:
    """A log line that has nothing else is not passed over."""
    assert redact_event(None, "", {name: "hunter2"}) == {name: REDACTED}
    assert redact(f"{name}=hunter2") == f"{name}={REDACTED}"


@example("refresh_tokens", 987654321, str)
@given(
    st.sampled_from(SECRET_NAMES),
    st.recursive(
        st.just("hunter2") | st.just(b"hunter2") | st.just(987654321),
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.sampled_from("ab"), inner, min_size=1)
        ),
        max_leaves=5,
    ),
    st.sampled_from([repr, str, lambda values: json.dumps(values, default=repr)]),
)
def test_nothing_under_a_secret_name_is_kept(
    name: str, value: Any, render: Callable[[dict[str, Any]], str]
) -> None:
    """As a value, and after it became text, once more inside other text."""
    values = {"id": 1, name: value, "after": "x"}
    for text in (
        repr(redact_values(values)),
        redact(render(values)),
        redact(json.dumps({"m": render(values)})),
    ):
        assert "hunter2" not in text
        assert "987654321" not in text


def test_names_tell_secrets_too() -> None:
    """What is under a secret's name is taken out, however deep; names that only resemble stay."""
    values = {"password": "x", "deep": [{"api_key": "y", "n": 1}], "pin": None}
    assert redact_values(values) == {
        "password": REDACTED,
        "deep": [{"api_key": REDACTED, "n": 1}],
        "pin": None,
    }
    harmless = {
        "tokens": 7,
        "key": "k",
        "token": "",
        "password": None,
        "has_secret": True,
        "secret_name": "a",
    }
    assert redact_values(harmless) == harmless


@pytest.mark.parametrize("terminal", [False, True])
def test_no_log_line_holds_a_secret(terminal: bool) -> None:
    """Messages, arguments, fields and tracebacks, of structlog and of logging, as JSON and on a terminal."""
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers, root.level
    logs.configure()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter(terminal))
    root.handlers, root.level = [handler], logging.INFO
    try:
        _write_secrets()
    finally:
        root.handlers, root.level = before
        structlog.reset_defaults()
    written = stream.getvalue()
    assert written.count("said") == 3
    assert "hunter2" not in written
    assert written.count(REDACTED) >= 5
    if not terminal:
        assert json.loads(written.splitlines()[0])["event"] == f"said password={REDACTED}"


def _write_secrets() -> None:
    logging.getLogger("library").warning("said password=%s", "hunter2", extra={"api_key": "hunter2"})
    structlog.get_logger("ours").warning("said", url="http://a:hunter2@b", nested={"password": "hunter2"})
    try:
        raise ValueError("secret=hunter2")
    except ValueError:
        structlog.get_logger("ours").exception("said")


def test_a_failure_of_a_task_tells_no_secret() -> None:
    """Message and traceback, which go to the errors topic, the dead letter, the job, Flower and Sentry."""
    try:
        raise ConnectionError("no route to postgresql://alice:hunter2@db/x")
    except ConnectionError as error:
        outcome = failed(error)
    assert "hunter2" not in outcome.message
    assert "postgresql://alice:hunter2@" not in outcome.traceback.splitlines()[-1]


def test_an_error_event_tells_no_secret() -> None:
    """Message, traceback and headers are redacted; the user's own data is what it was on its topic."""
    data = '{"password": "of the document"}'
    fields: dict[str, Any] = {"kind": "event", "service": "s", "error": "E", "failed_at": 1.0, "data": data}
    event = ErrorEvent(
        **fields,
        reason="password=hunter2",
        traceback="token='hunter2'",
        headers={"authorization": "hunter2", "a": "b"},
    )
    assert b"hunter2" not in event.encode()
    assert (event.data, event.headers["a"]) == (data, "b")
