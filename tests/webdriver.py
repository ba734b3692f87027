"""A headless Chromium that a test drives, over the W3C's WebDriver protocol: Debian's and its driver."""

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import PATIENCE, wait_until

#: The key under which the protocol gives an element (WebDriver, section 12.2).
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class WebDriverError(Exception):
    """The driver's error, with its own message."""


class Browser:
    """One window of one browser."""

    def __init__(self, url: str) -> None:
        self._url = url

    def open(self, url: str) -> None:
        """Go there; returns when the page has loaded."""
        self._ask("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self._ask("GET", "/url"))

    def resize(self, width: int, height: int) -> None:
        """Give the page a view of so many CSS pixels, however narrow; a window has a least width."""
        view = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._devtools("Emulation.setDeviceMetricsOverride", view)

    def prefer(self, scheme: str) -> None:
        """As a person who prefers "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._devtools("Emulation.setEmulatedMedia", {"features": features})

    @property
    def source(self) -> str:
        """The document as it is now, with what is not in view."""
        return str(self._ask("GET", "/source"))

    def run(self, script: str, *arguments: Any) -> Any:
        """Return the value of a script run in the page."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script: str) -> Any:
        """Return what an asynchronous script passes to its callback."""
        return self._ask("POST", "/execute/async", {"script": script, "args": []})

    def sign_in(self, name: str, password: str) -> None:
        """Answer every request for a password, as a browser does once its user gave one."""
        given = base64.b64encode(f"{name}:{password}".encode()).decode()
        self._devtools("Network.enable", {})
        self._devtools("Network.setExtraHTTPHeaders", {"headers": {"Authorization": f"Basic {given}"}})

    def text(self, selector: str = "body") -> str:
        """The text of the first element that matches, as a person sees it; empty when there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def wait_for(self, text: str, selector: str = "body", timeout: float = PATIENCE) -> None:
        """Return once an element shows the text."""
        wait_until(lambda: text in self.text(selector), f"{text!r} in {selector}", timeout)

    def click(self, selector: str) -> None:
        """Click the first element that matches, once it is there; again where the page replaced it."""
        wait_until(lambda: self._clicked(selector), f"a click on {selector}")

    def type(self, selector: str, text: str) -> None:
        """Type into a field, in place of what it holds."""
        element = self._element(selector)
        self._ask("POST", f"/element/{element}/clear", {})
        self._ask("POST", f"/element/{element}/value", {"text": text})

    def press(self, key: str) -> None:
        """Press one key where the focus is."""
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def screenshot(self, path: Path) -> None:
        """Write what is in view as a PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def complaints(self) -> list[str]:
        """Return the console's errors and warnings since the last call."""
        return [
            f"{each['level']}: {each['message']}"
            for each in self._ask("POST", "/se/log", {"type": "browser"})
        ]

    def _clicked(self, selector: str) -> bool:
        try:
            self._ask("POST", f"/element/{self._element(selector)}/click", {})
        except WebDriverError as error:
            if "stale element" in str(error) or "no such element" in str(error):
                return False
            raise
        return True

    def _element(self, selector: str) -> str:
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[ELEMENT])

    def _devtools(self, command: str, parameters: dict[str, Any]) -> None:
        self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return _ask(method, self._url + path, body)


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own in ``folder``, while the block runs."""
    with _driver(folder / "chromedriver.log") as driver:
        options = {
            "binary": _program("chromium", "google-chrome"),
            "args": [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--no-first-run",
                f"--user-data-dir={folder / 'chromium'}",
            ],
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "WARNING"}}
        session = _ask("POST", f"{driver}/session", {"capabilities": {"alwaysMatch": wanted}})
        url = f"{driver}/session/{session['sessionId']}"
        try:
            yield Browser(url)
        finally:
            _ask("DELETE", url)


@contextmanager
def _driver(log: Path) -> Iterator[str]:
    """The address of a running chromedriver."""
    found = _program("chromedriver")
    with log.open("wb") as output:
        process = subprocess.Popen([found, "--port=0"], stdout=output, stderr=output)
    try:
        wait_until(lambda: _port(log), "chromedriver listens")
        yield f"http://127.0.0.1:{_port(log)}"
    finally:
        process.terminate()
        process.wait()


def _program(*names: str) -> str:
    """Where the first of these is; skips the test without one, fails it where CI=true promises one."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        reason = f"pages need Debian's packages chromium and chromium-driver: no {names[0]} on PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def _port(log: Path) -> int | None:
    found = re.search(r"successfully on port (\d+)", log.read_text(errors="replace"))
    return int(found[1]) if found else None


def _ask(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(  # noqa: S310 (this machine's driver)
        url,
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.loads(answer.read())["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise WebDriverError(json.loads(error.read())["value"]["message"]) from error
