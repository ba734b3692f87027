"""Secrets are taken out of what is written down; everything else stays as it was."""

import io
import json
import logging
import time
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errorevents import ErrorEvent
from pipeline.telemetry import logs
from pipeline.telemetry.redaction import REDACTED, redact, redact_values
from pipeline.worker.outcome import failed

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
}

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
    """What only looks a little like a secret is left alone: a log must stay readable."""
    assert redact(text) == text


def test_what_surrounds_a_secret_stays() -> None:
    """User, host and the other parameters are what a person looks for."""
    assert redact("amqp://alice:hunter2@mq:5671/v") == f"amqp://alice:{REDACTED}@mq:5671/v"
    assert redact("a=1&password=hunter2&b=2") == f"a=1&password={REDACTED}&b=2"


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
    """What was redacted before, as an error event's message is, does not change again."""
    once = redact(SECRETS[case][0])
    assert redact(once) == once


@pytest.mark.parametrize(
    "part", ["password", "x-", "://a:", "eyJ", "-----BEGIN PRIVATE KEY-----", "token='", "a" * 10, '\\"']
)
def test_long_text_takes_no_long_time(part: str) -> None:
    """No text makes it slow: a megabyte takes well below a second, whatever it repeats."""
    text = part * (200_000 // len(part))
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 2


def test_names_tell_secrets_too() -> None:
    """Text under a secret's name is taken out, however deep; numbers and names that only resemble stay."""
    values = {"password": "x", "deep": [{"api_key": "y", "n": 1}], "tokens": 7, "key": "k", "token": ""}
    assert redact_values(values) == {
        "password": REDACTED,
        "deep": [{"api_key": REDACTED, "n": 1}],
        "tokens": 7,
        "key": "k",
        "token": "",
    }


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
        message="password=hunter2",
        traceback="token='hunter2'",
        headers={"authorization": "hunter2", "a": "b"},
    )
    assert "hunter2" not in event.model_dump_json()
    assert (event.data, event.headers["a"]) == (data, "b")
