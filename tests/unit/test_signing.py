"""Signatures of commands: what a worker with CONTROL_KEY believes."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.control.signing import LASTS, SIGNATURE, SIGNED_AT, Signer, Verifier
from pipeline.errors import ConfigurationError
from pipeline.settings import load_settings
from tests.unit.test_settings import REQUIRED

KEY = "0123456789abcdef0123456789abcdef"


def signed(method: str = "shutdown", key: str = KEY, service: str = "orders") -> dict[str, Any]:
    """A command as it is published."""
    body = json.dumps({"method": method, "arguments": {}})
    payload = {"body": body, "headers": {"clock": 1}, "properties": {"delivery_tag": "t"}}
    Signer(key, service).sign(payload)
    return payload


class Worker:
    """A verifier whose clock is so many seconds ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._verifier = Verifier(Signer(KEY, "orders"), lambda: time.time() + self.ahead)

    def fault(self, payload: dict[str, Any]) -> str | None:
        return self._verifier.fault(
            json.loads(payload["body"])["method"],
            payload["body"],
            payload["properties"]["delivery_tag"],
            payload["headers"],
        )


def test_a_signed_command_is_believed_once() -> None:
    """Its copy is not: who reads the topic cannot repeat it."""
    worker, command = Worker(), signed()
    assert worker.fault(command) is None
    assert "copy" in str(worker.fault(command))


def test_a_command_is_not_believed_later() -> None:
    """A copy is refused after the time that signatures are remembered, too."""
    worker, command = Worker(), signed()
    assert worker.fault(command) is None
    for worker.ahead in (LASTS, LASTS * 2, 86_400.0):
        assert worker.fault(command) is not None
    worker.ahead = -60.0
    assert "clocks" in str(worker.fault(signed()))


def test_a_revoke_is_believed_as_long_as_it_counts() -> None:
    """A worker that starts within three hours reads it, and may read it again."""
    worker, command = Worker(), signed("revoke")
    for worker.ahead in (0.0, 0.0, 10_000.0):
        assert worker.fault(command) is None
    worker.ahead = 11_000.0
    assert worker.fault(command) is not None


def test_who_has_no_key_is_told_the_setting() -> None:
    """The answer names what to set."""
    command = signed()
    command["headers"] = {"clock": 1}
    assert "set CONTROL_KEY" in str(Worker().fault(command))


@pytest.mark.parametrize("command", [signed(key=KEY[::-1]), signed(service="shop")])
def test_another_key_or_service_is_refused(command: dict[str, Any]) -> None:
    """A command for another service is none for this one, even if they share a key."""
    assert "CONTROL_KEY" in str(Worker().fault(command))


@given(
    st.sampled_from(["body", "tag", SIGNED_AT, SIGNATURE]),
    st.none() | st.integers() | st.floats() | st.text(),
)
def test_nothing_that_is_changed_is_believed(part: str, value: Any) -> None:
    """Body, delivery tag, time and signature: a change of one is refused, and raises nothing."""
    command = signed()
    body, tag, headers = command["body"], "t", dict(command["headers"])
    if part == "body":
        body += str(value)
    elif part == "tag":
        tag += str(value)
    else:
        headers[part] = value
    if (body, tag, headers) != (command["body"], "t", command["headers"]):
        verifier = Verifier(Signer(KEY, "orders"))
        assert verifier.fault("shutdown", body, tag, headers) is not None


def test_a_short_key_is_refused_and_not_shown() -> None:
    """It could be guessed from one signed command."""
    with pytest.raises(ConfigurationError, match="CONTROL_KEY") as caught:
        load_settings({**REQUIRED, "CONTROL_KEY": "s3cr3t"})
    assert "s3cr3t" not in str(caught.value)
