"""Hostile input beside a load: whoever may write a topic or reach a port stops no process and runs nothing.

A producer sends records that are dear to read, a neighbour forges commands and task events, a stranger holds
connections open. All the while every process answers ``/live`` at once, and the load is done.
"""

import contextlib
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from confluent_kafka import Producer

from pipeline.settings import load_settings
from tests.faults.world import Process, World
from tests.processes import PATIENCE, free_port

#: Seconds in which ``/live`` must answer, whatever is going on. A busy machine gets so many times the slowest
#: of some answers before anything goes on.
AT_ONCE, TIMES, USUAL = 2.0, 10, 10
#: Seconds between two questions.
EVERY = 0.1
#: Bytes of a text that once took the redaction of a log line minutes.
DEAR = 900_000
#: Connections that one stranger opens to each port, and the stranger's address.
CONNECTIONS, STRANGER = 1_100, "127.0.0.2"
#: Half-sent bodies, and the bytes of each.
BODIES, BODY = 60, 4_000_000
#: Workers that there are not, and bytes that a page about them may have.
FALSE_WORKERS, PAGE = 20_000, 1_000_000
TOKEN = "hostile-" + uuid.uuid4().hex


@dataclass
class Liveness:
    """The processes under attack, and the longest time that each took to say that it lives."""

    urls: Mapping[str, str]
    processes: list[Process]
    slowest: dict[str, float]
    #: Seconds in which each must answer on this machine.
    at_once: float

    def port(self, name: str) -> int:
        """The port of a process."""
        port = urlsplit(self.urls[name]).port
        assert port is not None
        return port

    def check(self) -> None:
        """Every process lives, and always answered at once."""
        assert all(process.lives for process in self.processes), [p.log[-2000:] for p in self.processes]
        assert set(self.slowest) == set(self.urls), "one was never asked: the test proves nothing"
        assert max(self.slowest.values()) < self.at_once, (self.slowest, self.at_once)


def answer_time(url: str) -> float:
    """Return the seconds that ``/live`` takes; infinite where it does not answer 200."""
    begun = time.monotonic()
    try:
        with urllib.request.urlopen(f"{url}/live", timeout=PATIENCE) as response:  # noqa: S310 - ours
            return time.monotonic() - begun if response.status == 200 else float("inf")
    except OSError:
        return float("inf")


@pytest.fixture
def liveness(world: World) -> Iterator[Liveness]:
    """A bridge, a worker that sends task events, and a jobs page; each is asked all the time."""
    for process in world.alive():
        world.stop(process)
    ports = {name: str(free_port()) for name in ("bridge", "worker")}
    started = [
        world.start("web", WEB_TOKEN=TOKEN),
        world.start("bridge", HEALTH_PORT=ports["bridge"]),
        world.start("worker", "-E", HEALTH_PORT=ports["worker"]),
    ]
    world.wait(lambda: all(process.at_work for process in started), "at work", 90)
    served = re.search(r"Serving (http://\S+)", started[0].log)
    assert served
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()} | {"web": served[1]}
    usual = max(answer_time(url) for url in urls.values() for _ in range(USUAL))
    assert usual < PATIENCE, "one does not answer at all"
    asked = Liveness(urls, started, {}, max(AT_ONCE, TIMES * usual))
    stop = threading.Event()

    def ask(name: str, url: str) -> None:
        while not stop.wait(EVERY):
            asked.slowest[name] = max(asked.slowest.get(name, 0.0), answer_time(url))

    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in urls.items()]
    for thread in threads:
        thread.start()
    yield asked
    stop.set()
    for thread in threads:
        thread.join()
    world.kill(started[0])


def test_records_that_are_dear_to_read(world: World, liveness: Liveness) -> None:
    """Each is done, rejected or failed as any other of its kind, and none holds a process up."""
    dear = "-eyJ" * (DEAR // 4)
    good = world.load.item("parcels", entity="dear-header")
    invalid = world.load.item("parcels", entity="dear-and-invalid", fate="rejected")
    deep = world.load.item("parcels", entity="deep", fate="rejected")
    unfit = world.load.item("parcels", entity="unfit", fate="failed")
    value = json.dumps({"key": unfit.key, "entity": 1, "seq": dear[: DEAR // 8]}).encode()
    world.load.produce(
        [
            replace(good, headers=(*good.headers, ("x-note", dear.encode()))),
            replace(invalid, value=b"{not json", headers=(*invalid.headers, ("x-note", dear.encode()))),
            replace(deep, value=b"[" * (DEAR // 2) + b"]" * (DEAR // 2)),
            replace(unfit, value=value),
        ]
    )
    world.load.send()
    world.verify()
    liveness.check()


def test_commands_that_nobody_here_sent(world: World, liveness: Liveness) -> None:
    """The worker goes on with the children and limits that it was given, and does not listen to patterns."""
    worker = liveness.processes[-1]
    children = len(worker.children())
    producer = Producer({"bootstrap.servers": world.observer.bootstrap})
    commands: list[tuple[str, dict[str, Any], str | None]] = [
        ("shutdown", {}, None),
        ("pool_grow", {"n": 30}, None),
        ("pool_shrink", {"n": 30}, None),
        ("time_limit", {"task_name": "weigh", "hard": 0.001, "soft": None}, None),
        ("cancel_consumer", {"queue": world.observer.queue_url.rsplit("/", 1)[1]}, None),
        ("ping", {}, "(a+)+" * 20 + "$"),
    ]
    for method, arguments, pattern in commands:
        producer.produce(_control_topics(world)[1], _command(method, arguments, pattern))
    producer.flush(10)
    world.load.send()
    world.verify()
    assert len(worker.children()) == children
    liveness.check()


def test_task_events_of_workers_that_there_are_not(world: World, liveness: Liveness) -> None:
    """The page keeps its size and its figures, and goes on."""
    producer = Producer({"bootstrap.servers": world.observer.bootstrap})
    topic = _control_topics(world)[0]
    producer.produce(topic, _event("task-succeeded", uuid="u", name="weigh", runtime=float("nan")))
    for number in range(FALSE_WORKERS):
        name = f"celery@<img src=x>\x1b[2J{number}"
        producer.produce(topic, _event("worker-heartbeat", hostname=name, active=0, pool_size=1))
        producer.poll(0)
    producer.flush(30)
    world.load.send()
    world.verify()
    page = _page(liveness.urls["web"], "/api/v1/pipeline")
    assert len(page) < PAGE
    assert b"NaN" not in page
    liveness.check()


def test_connections_that_say_nothing(world: World, liveness: Liveness) -> None:
    """Held open by the hundred, and half-sent bodies: the processes answer others, and do not grow."""
    before = {process.name: _memory(process) for process in liveness.processes}
    with contextlib.ExitStack() as held:
        for name in liveness.urls:
            for _ in range(CONNECTIONS):
                _open(held, liveness.port(name), b"GET /live HTTP/1.1\r\nX: ")
        for _ in range(BODIES):
            head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n\r\n".encode()
            _open(held, liveness.port("web"), head + b"[" * (BODY // 2))
        world.load.send()
        world.verify()
    grown = {p.name: _memory(p) - before[p.name] for p in liveness.processes}
    assert max(grown.values()) < 100_000_000, grown
    liveness.check()


def _control_topics(world: World) -> tuple[str, str, str]:
    """Return the topics of events, commands and replies."""
    return load_settings(world.environment).control_topics


def _command(method: str, arguments: Mapping[str, Any], pattern: str | None) -> bytes:
    """Return a control command as Celery writes it, without a signature."""
    ticket = str(uuid.uuid4())
    body = {
        "method": method,
        "arguments": arguments,
        "destination": None,
        "pattern": pattern,
        "matcher": "pcre" if pattern else None,
        "ticket": ticket,
        "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": ticket},
    }
    return _message(body, {"clock": 1, "expires": time.time() + 30}, "celery.pidbox", "")


def _event(kind: str, **about: Any) -> bytes:
    """Return a task event as Celery writes it."""
    body = {"type": kind, "timestamp": time.time(), "utcoffset": 0, "clock": 1, "pid": 1}
    return _message({"hostname": "celery@evil", **body, **about}, {}, "celeryev", kind.replace("-", "."))


def _message(body: Any, headers: Mapping[str, Any], exchange: str, routing_key: str) -> bytes:
    message = {
        "body": json.dumps(body),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "delivery_tag": str(uuid.uuid4()),
            "delivery_info": {"exchange": exchange, "routing_key": routing_key},
        },
    }
    return json.dumps(message).encode()


def _open(held: contextlib.ExitStack, port: int, sent: bytes) -> None:
    """Open a connection and send a beginning; one that is refused or closed is as good."""
    with contextlib.suppress(OSError):
        connection = held.enter_context(
            socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(STRANGER, 0))
        )
        connection.settimeout(0.2)
        connection.sendall(sent)


def _page(url: str, path: str) -> bytes:
    request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {TOKEN}"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # noqa: S310 - one of ours
        body: bytes = response.read()
    return body


def _memory(process: Process) -> int:
    """Return the resident bytes of a process, without its children."""
    found: int = psutil.Process(process.popen.pid).memory_info().rss
    return found
