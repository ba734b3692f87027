"""``--url``: the requests of the commands that ask a jobs page."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from pipeline.cli import main

TOKEN = "only-for-tests"


class Moved(BaseHTTPRequestHandler):
    """Leads every question elsewhere, and keeps what it was asked."""

    #: Where to, the status it says so with, and each path that was asked with its token.
    elsewhere = ""
    status = 302
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        """Say where to."""
        self.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(self.status)
        self.send_header("Location", self.elsewhere.replace("{path}", self.path))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def moved() -> Iterator[tuple[str, type[Moved]]]:
    """Its address, and how it answers."""
    handler = type("Handler", (Moved,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_token_goes_to_the_address_that_was_given_and_to_no_other(
    moved: tuple[str, type[Moved]], status: int
) -> None:
    """A page that leads elsewhere, to a login or to another host, is not followed: it says where to."""
    url, handler = moved
    handler.status, handler.elsewhere = status, f"{url}/elsewhere{{path}}"
    result = CliRunner().invoke(main, ["jobs", "list", "--url", url], env={"WEB_TOKEN": TOKEN})
    assert handler.asked == [("/api/v1/jobs?limit=200", f"Bearer {TOKEN}")]
    assert result.exit_code == 1
    assert f"{url} redirects to {url}/elsewhere. " in result.stderr
    assert "give that address" in result.stderr


def test_where_a_page_leads_to_is_told_as_it_can_be_printed(moved: tuple[str, type[Moved]]) -> None:
    """Part of an address is one of the same host; and no address steers a terminal."""
    url, handler = moved
    handler.elsewhere = "/login\x1b]0;owned\x07"
    result = CliRunner().invoke(main, ["jobs", "list", "--url", url], env={"WEB_TOKEN": TOKEN})
    assert f"{url} redirects to {url}/login" in result.stderr
    assert "\x1b" not in result.stderr
