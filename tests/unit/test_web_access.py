"""Who may look at jobs and who may act, by what a request says."""

import base64
from collections.abc import Callable

import pytest
from fastapi import HTTPException, Request
from pydantic import SecretStr

from pipeline.web.access import Access
from tests.unit.test_live import SETTINGS


def request(address: str = "127.0.0.1", **headers: str) -> Request:
    """One that comes from there, with these headers."""
    named = {"host": "127.0.0.1:8080"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(
        {
            "type": "http",
            "method": "POST",
            "client": (address, 5),
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        }
    )


def access(token: str | None = "secret", read_only: bool = False) -> Access:  # noqa: S107
    """That of a service with this token."""
    changes = {"web_token": SecretStr(token) if token else None, "web_read_only": read_only}
    return Access(SETTINGS.model_copy(update=changes))


def basic(text: str) -> str:
    """The header of a browser whose user typed a name and a password."""
    return "Basic " + base64.b64encode(text.encode()).decode()


def refused(call: Callable[[], object]) -> int:
    """The status with which it is refused."""
    with pytest.raises(HTTPException) as caught:
        call()
    return caught.value.status_code


def test_without_a_token_this_machine_looks_and_nobody_acts() -> None:
    """A laptop needs no setting to look; another machine, or a name that was bent to here, sees nothing."""
    open_access = access(None)
    assert open_access.look(request()).name == "local"
    assert open_access.look(request("::1", host="[::1]:8080")).host == "::1"
    assert refused(lambda: open_access.look(request("10.0.0.7"))) == 403
    assert refused(lambda: open_access.look(request(host="evil.example:8080"))) == 403
    assert refused(lambda: open_access.act(request())) == 403
    assert not open_access.may_act


@pytest.mark.parametrize("given", ["Bearer secret", "bearer secret", basic("ada:secret"), basic(":secret")])
def test_the_token_opens(given: str) -> None:
    """As a bearer token or as the password of any user."""
    assert access().look(request("10.0.0.7", authorization=given))
    assert access().act(request("10.0.0.7", authorization=given))


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer wrong", "secret", basic("secret"), basic("secret:wrong"), "Basic !!", "Basic é"],
)
def test_anything_else_does_not(given: str) -> None:
    """Not even on this machine; and a browser is asked for a name and a password."""
    with pytest.raises(HTTPException) as caught:
        access().look(request(authorization=given))
    assert caught.value.status_code == 401
    assert caught.value.headers
    assert caught.value.headers["WWW-Authenticate"].startswith("Basic ")


def test_read_only_is_read_only() -> None:
    """Who has the token looks, and changes nothing."""
    watching = access(read_only=True)
    asked = request(authorization="Bearer secret")
    assert watching.look(asked)
    assert refused(lambda: watching.act(asked)) == 403
    assert not watching.may_act


def test_who_it_was_is_known() -> None:
    """By the name that was typed, and the address."""
    actor = access().act(request("10.0.0.7", authorization=basic("ada:secret")))
    assert (actor.name, actor.host) == ("ada", "10.0.0.7")


@pytest.mark.parametrize(
    ("headers", "goes"),
    [
        ({}, True),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "cross-site", "origin": "http://127.0.0.1:8080"}, False),
        ({"origin": "http://127.0.0.1:8080"}, True),
        ({"origin": "http://127.0.0.1:9090"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://["}, False),
    ],
)
def test_what_another_site_sends_is_refused(headers: dict[str, str], goes: bool) -> None:
    """A browser adds the password by itself, so where a request comes from decides; a token it never adds."""
    sent = request(authorization=basic("ada:secret"), **headers)
    if goes:
        assert access().act(sent)
    else:
        assert refused(lambda: access().act(sent)) == 403
    assert access().act(request(authorization="Bearer secret", **headers))
