"""Redis: Celery on a redis-server of its own, the common alternative. The round trip is to Redis."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from celery import Celery

from benchmarks.ground import Ground
from benchmarks.peer import Flow, Ready, Shape
from benchmarks.peers import canvas

name = "redis"

#: The variable that tells the worker where Redis is.
URL = "BENCHMARK_REDIS_URL"
QUEUE = "benchmark"
#: Where kombu keeps what a worker holds, settled or not.
HELD = "unacked"

COMMAND = (
    *(sys.executable, "-m", "celery", "-A", "benchmarks.peers.redis", "worker"),
    *("-c", "2", "-E", "--loglevel", "INFO"),
)


def missing() -> str | None:
    """Return the missing requirement."""
    if shutil.which("redis-server") is None:
        return "redis-server is not installed"
    return None if importlib.util.find_spec("redis") else "it needs pip install redis"


@contextmanager
def working(ground: Ground, tasks: int) -> Iterator[Ready]:
    """Send the tasks with ``apply_async``."""
    from redis import Redis

    with run_redis() as port:
        url = f"redis://127.0.0.1:{port}/0"
        client = Redis(port=port)
        with app.connection_for_write(url) as connection:
            for number in range(tasks):
                double.apply_async((number,), connection=connection)

        yield Ready(
            command=COMMAND,
            servers={"redis": url},
            environment=lambda urls: _environment(ground, urls),
            done=lambda: tasks - int(client.llen(QUEUE)) - int(client.hlen(HELD)),
        )
        client.close()


@contextmanager
def flowing(ground: Ground, shape: Shape) -> Iterator[Flow]:
    """Push the first message of each chain."""
    from redis import Redis

    with run_redis() as port:
        client = Redis(port=port)

        def submit(jobs: int) -> None:
            messages = [canvas.message(QUEUE, shape.chain, number) for number in range(jobs)]
            client.lpush(QUEUE, *map(json.dumps, messages))

        yield Flow(
            commands={"worker": COMMAND},
            servers={"redis": f"redis://127.0.0.1:{port}/0"},
            environment=lambda urls: _environment(ground, urls),
            submit=submit,
            task_done=canvas.TASK_DONE,
            job_done=canvas.job_done(shape.chain),
        )
        client.close()


def _environment(ground: Ground, urls: Mapping[str, str]) -> dict[str, str]:
    return {**ground.environment, URL: f"redis://{urlsplit(urls['redis']).netloc}/0"}


@contextmanager
def run_redis() -> Iterator[int]:
    """Run a redis-server that keeps nothing on disk; return its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait(port)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


# ─── The app that the worker finds ───


def _configuration() -> dict[str, Any]:
    return {
        "broker_url": os.environ.get(URL, "redis://"),
        "broker_connection_retry_on_startup": True,
        "task_default_queue": QUEUE,
        "task_acks_late": True,
        "task_ignore_result": True,
        "result_backend": os.environ.get(URL, "redis://"),
    }


app = Celery("redis_peer", set_as_current=False)
app.add_defaults(_configuration)
canvas.add_tasks(app)


@app.task(name="double", shared=False)  # type: ignore[untyped-decorator]
def double(number: int) -> int:
    """The function that our peer runs, too."""
    return 2 * number
