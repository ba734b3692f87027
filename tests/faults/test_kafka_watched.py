"""Kafka goes away and comes back while health, the jobs page and the monitor are asked about it."""

import contextlib
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faults.world import Process, World
from tests.processes import free_port

#: Times that Kafka goes away, and seconds for which it does: one of them long enough to be described.
AWAY, LONG_AWAY = 2.0, 14.0
#: Seconds after its return in which every page must be right again.
WITHIN = 10.0
#: Seconds between two requests for a page.
EVERY = 0.1
#: Seconds within which an outage is noticed, whoever looks.
NOTICED = 12.0
#: Seconds that Kafka takes to come back on a quiet machine. Where it takes longer, so may all who watch it.
BACK = 5.0


def fetch(url: str) -> Any:
    """Return what a page says, JSON as what it means; None if nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=6) as response:  # noqa: S310 - one of ours
            body, kind = response.read(), response.headers.get_content_type()
    except urllib.error.HTTPError as error:
        with error:
            body, kind = error.read(), error.headers.get_content_type()
    except OSError:
        return None
    return json.loads(body) if kind == "application/json" else body.decode()


@dataclass
class Watcher:
    """Asks for pages all the time, from a thread for each."""

    pages: dict[str, str]
    #: What each page said last.
    latest: dict[str, Any] = field(default_factory=dict)
    asked: int = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        stop = threading.Event()

        def ask(name: str, url: str) -> None:
            while not stop.wait(EVERY):
                self.latest[name] = fetch(url)
                self.asked += 1

        threads = [threading.Thread(target=ask, args=item, daemon=True) for item in self.pages.items()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def wrong(self) -> list[str]:
        """Return the pages that do not say that all is well, with two workers at work."""
        return [name for name in self.pages if not is_right(self.latest.get(name))]


def is_right(page: Any) -> bool:
    """Whether a page says that all is well."""
    if isinstance(page, str):
        return "does not answer" not in page and "are not known" not in page
    if isinstance(page, dict) and "at_work" in page:
        online = sum(worker["online"] for worker in page["at_work"]["workers"])
        return not page["away"] and page["at_work"]["error"] is None and online == 2
    if isinstance(page, dict) and "dependencies" in page:
        page = page["dependencies"]["kafka"]
    return isinstance(page, dict) and page.get("status") == "healthy" and page["lag"] is not None


@pytest.fixture(name="watcher")
def watcher_fixture(world: World) -> Iterator[Watcher]:
    """All pages there are of a bridge, two workers that send events, and a jobs page."""
    for process in world.alive():
        world.stop(process)
    ports = {name: str(free_port()) for name in ("bridge", "worker")}
    web = world.start("web")
    world.start("bridge", HEALTH_PORT=ports["bridge"])
    world.start("worker", "-E", HEALTH_PORT=ports["worker"])
    world.start("worker", "-E")
    world.wait(lambda: all(process.at_work for process in world.alive()), "at work", 90)
    served = re.search(r"Serving (http://\S+)", web.log)
    assert served
    hosts = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()} | {"web": served[1]}
    pages = {
        f"{name}{path}": url + path for name, url in hosts.items() for path in ("/health", "/kafka/health")
    }
    pages |= {"page": f"{served[1]}/", "api": f"{served[1]}/api/v1/pipeline"}
    watcher = Watcher(pages)
    with watcher.watching():
        yield watcher
    for process in world.alive():
        if process.kind in ("web", "monitor"):
            world.kill(process)


def test_who_watches_kafka_outlives_it(world: World, watcher: Watcher) -> None:
    """Outage after outage: every process lives, and every page is right within ten seconds of each."""
    monitor = world.start("monitor")
    processes = world.alive()
    _soon(lambda: not watcher.wrong(), 60, lambda: f"wrong from the start: {_shown(watcher)}")
    slower = 1.0
    for number in range(world.scale.outages):
        world.load.send()
        left_at = time.time()
        world.stack.stop_kafka(kill=number % 2 == 0)
        if number == world.scale.outages // 2:
            _described(watcher, left_at, slower)
        else:
            world.pass_time(AWAY)
        asked_at = time.monotonic()
        world.stack.up()
        # The broker answers before its coordinator of groups does, on a busy machine long before.
        world.observer.lag()
        slower = max(1.0, (time.monotonic() - asked_at) / BACK)
        _soon(
            lambda: not watcher.wrong(), WITHIN * slower, lambda: f"wrong after an outage: {_shown(watcher)}"
        )
        _all_live(processes, watcher)
    lines = len(monitor.log.splitlines())
    _soon(
        lambda: _reads(monitor, lines),
        25 * slower,
        lambda: f"the monitor reads no more: {monitor.log[-2000:]}",
    )
    _all_live(processes, watcher)
    world.verify()


def _described(watcher: Watcher, left_at: float, slower: float) -> None:
    """While it lasts the pages say so, since when, and no zeros."""
    # A broker that is told to stop may answer for a while.
    gone_at = time.time()

    def said() -> bool:
        api = watcher.latest.get("api") or {}
        health = watcher.latest.get("web/kafka/health") or {}
        away = [each for each in api.get("away", ()) if each["service"] == "Kafka"]
        return bool(
            away
            and left_at - NOTICED < away[0]["since"] < gone_at + NOTICED * slower
            and api["at_work"]["error"]
            and not api["at_work"]["workers"]
            and health.get("status") == "unhealthy"
            and "since" in health
        )

    _soon(said, LONG_AWAY * slower, lambda: f"not described: {_shown(watcher)}")


def _soon(condition: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def _all_live(processes: list[Process], watcher: Watcher) -> None:
    ended = [
        f"{each.name} ended with {each.popen.poll()}:\n{each.log[-2000:]}"
        for each in processes
        if not each.lives
    ]
    assert not ended, "\n".join(ended)
    assert watcher.asked


def _reads(monitor: Process, lines: int) -> bool:
    """Whether it has printed a group again since it had so many lines."""
    return any(line.startswith("{") and '"groups"' in line for line in monitor.log.splitlines()[lines:])


def _shown(watcher: Watcher) -> str:
    return json.dumps({name: watcher.latest.get(name) for name in watcher.wrong()}, default=str)[:6000]
