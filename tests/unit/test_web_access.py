"""Access to jobs and actions, by request."""

import asyncio
import base64
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from fastapi import HTTPException, Request
from pydantic import SecretStr

from pipeline.observe import guard
from pipeline.observe.guard import Actor
from pipeline.web import access as access_module
from pipeline.web.access import Access
from tests.loglines import log_lines
from tests.unit.test_live import SETTINGS


def request(
    address: str = "127.0.0.1", *, method: str = "POST", path: str = "/jobs/j", **headers: str
) -> Request:
    """One that comes from there, with these headers."""
    named = {"host": "127.0.0.1:8080"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(
        {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
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


def got(asked: Coroutine[Any, Any, Actor]) -> Actor:
    """The sender of a request that is allowed."""
    return asyncio.run(asked)


def refused(asked: Coroutine[Any, Any, Actor]) -> int:
    """The status with which it is refused."""
    with pytest.raises(HTTPException) as caught:
        asyncio.run(asked)
    return caught.value.status_code


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong token costs no second here."""
    monkeypatch.setattr(guard, "WRONG_DELAY", 0.0)


def test_without_a_token_this_machine_looks_and_nobody_acts() -> None:
    """A laptop needs no setting to look; another machine, or a name that was bent to here, sees nothing."""
    open_access = access(None)
    assert got(open_access.look(request())).name == "local"
    assert got(open_access.look(request("::1", host="[::1]:8080"))).host == "::1"
    assert refused(open_access.look(request("10.0.0.7"))) == 403
    assert refused(open_access.look(request(host="evil.example:8080"))) == 403
    assert refused(open_access.act(request())) == 403
    assert not open_access.may_act


@pytest.mark.parametrize("given", ["Bearer secret", "bearer secret", basic("ada:secret"), basic(":secret")])
def test_the_token_opens(given: str) -> None:
    """As a bearer token or as the password of any user."""
    assert got(access().look(request("10.0.0.7", authorization=given)))
    assert got(access().act(request("10.0.0.7", authorization=given)))


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer wrong", "secret", basic("secret"), basic("secret:wrong"), "Basic !!", "Basic é"],
)
def test_anything_else_does_not(given: str) -> None:
    """Not even on this machine; and a browser is asked for a name and a password."""
    with pytest.raises(HTTPException) as caught:
        got(access().look(request(authorization=given)))
    assert caught.value.status_code == 401
    assert caught.value.headers
    assert caught.value.headers["WWW-Authenticate"].startswith("Basic ")


def test_read_only_is_read_only() -> None:
    """With the token, reading is allowed and nothing can be changed."""
    watching = access(read_only=True)
    asked = request(authorization="Bearer secret")
    assert got(watching.look(asked))
    assert refused(watching.act(asked)) == 403
    assert not watching.may_act


def test_who_it_was_is_known() -> None:
    """By the name that was typed, and the address."""
    actor = got(access().act(request("10.0.0.7", authorization=basic("ada:secret"))))
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
        assert got(access().act(sent))
    else:
        assert refused(access().act(sent)) == 403
    assert got(access().act(request(authorization="Bearer secret", **headers)))


def test_a_wrong_token_is_logged_with_its_address_and_answered_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has neither the token nor the name, which may be a password typed into the wrong field."""
    monkeypatch.setattr(guard, "WRONG_DELAY", 0.3)
    started = time.monotonic()
    with log_lines(guard) as lines:
        assert refused(access().look(request("10.0.0.7", authorization=basic("hunter2:guess")))) == 401
    assert time.monotonic() - started >= 0.3
    assert lines == [{"event": "web.token_wrong", "level": "warning", "host": "10.0.0.7", "path": "/jobs/j"}]


def test_a_request_without_a_token_is_neither_logged_nor_slowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is how every browser begins; and the right token is never slowed."""
    monkeypatch.setattr(guard, "WRONG_DELAY", 60.0)
    with log_lines(guard) as lines:
        assert refused(access().look(request("10.0.0.7"))) == 401
        assert got(access().look(request("10.0.0.7", authorization="Bearer secret")))
    assert lines == []


def test_reads_are_in_the_audit_log() -> None:
    """Who read which path, once a minute: a page that fetches itself is one line, another path is another."""
    reading = access()

    def read(path: str, user: str) -> None:
        got(reading.look(request("10.0.0.7", method="GET", path=path, authorization=basic(f"{user}:secret"))))

    with log_lines(access_module) as lines:
        for _ in range(3):
            read("/jobs/a", "ada")
        read("/dead-letters/b", "ada")
        read("/jobs/a", "bob")
    assert [(line["event"], line["path"], line["by"], line["host"]) for line in lines] == [
        ("web.read", "/jobs/a", "ada", "10.0.0.7"),
        ("web.read", "/dead-letters/b", "ada", "10.0.0.7"),
        ("web.read", "/jobs/a", "bob", "10.0.0.7"),
    ]


def test_the_memory_of_reads_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, so it is logged again: never too few lines."""
    monkeypatch.setattr(access_module, "READS_KEPT", 2)
    reading = access(None)
    with log_lines(access_module) as lines:
        for path in ("/a", "/b", "/c", "/a"):
            got(reading.look(request(method="GET", path=path)))
    assert [line["path"] for line in lines] == ["/a", "/b", "/c", "/a"]


@pytest.mark.parametrize(
    ("headers", "goes"),
    [
        ({}, True),
        ({"sec_fetch_site": "none", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, True),
        ({"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"}, True),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, True),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}, False),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}, False),
        ({"sec_fetch_site": "same-site", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
    ],
)
def test_what_another_site_embeds_is_not_read(headers: dict[str, str], goes: bool) -> None:
    """An image on another site cannot hide dead letters by looking at them; a link to a page works."""
    asked = request(method="GET", path="/dead-letters", authorization=basic("ada:secret"), **headers)
    if goes:
        assert got(access().look(asked))
    else:
        assert refused(access().look(asked)) == 403
