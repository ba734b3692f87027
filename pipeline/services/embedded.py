"""Embedded services: librdkafka's mock cluster and ministack in one child process, in memory.

``python -m pipeline.services.embedded`` is that child: it prints the environment as one line of JSON, and
ends when its standard input does or its parent is gone.

Known limits of the mock cluster (librdkafka 2.16, tested): it has no admin API beyond topic metadata; a topic
that is asked for is created with 4 partitions; a partition keeps its newest 5 MiB, read or not, so a reader
must not lag further; a consumer joins a group fast only with KIP-848, which the environment sets.
"""

import asyncio
import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.errors import ConfigurationError, ServiceUnavailableError
from pipeline.services.children import wait_for_parent_end
from pipeline.services.environment import Services, service_environment
from pipeline.sqs.messages import MAX_MESSAGE_BYTES

#: Seconds for the child until both services answer; it takes about one.
START_TIMEOUT = 30.0


@contextmanager
def embedded_services() -> Iterator[Services]:
    """Run the embedded services for the block; their data is lost afterwards.

    Raises ConfigurationError when the extra ``embedded`` is not installed.
    """
    if importlib.util.find_spec("ministack") is None:
        raise ConfigurationError(
            "The embedded services need the Python package ministack, which is not installed: "
            "run pip install 'celery-stages[embedded]', or use the local services (they need java and mvn)."
        )
    with tempfile.TemporaryFile() as log, _child(log) as process:
        yield Services(name="embedded", environment=_read_environment(process, log))


@contextmanager
def _child(log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own: Ctrl-C of the terminal reaches the parent only, which needs the services while
    # it ends.
    with subprocess.Popen(
        [sys.executable, "-m", __spec__.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def _read_environment(process: subprocess.Popen[bytes], log: IO[bytes]) -> dict[str, str]:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], START_TIMEOUT)
    line = process.stdout.readline() if readable else b""
    if not line:
        log.seek(0)
        tail = "\n".join(log.read().decode(errors="replace").splitlines()[-15:])
        raise ServiceUnavailableError(f"The embedded services did not start in {START_TIMEOUT:g} s:\n{tail}")
    environment: dict[str, str] = json.loads(line)
    return environment


def _serve() -> None:
    """Run the child process: serve until the parent ends."""
    folder = Path(tempfile.mkdtemp(prefix="pipeline-embedded-"))
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        producer, kafka = start_mock_cluster()
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        application = _load_ministack(listener.getsockname()[1])
        environment = service_environment(
            kafka=kafka, group_protocol="consumer", sqs=url, dynamodb=url, s3=url, folder=folder
        )
        print(json.dumps(environment), flush=True)  # noqa: T201 - what the parent waits for
        asyncio.run(_serve_http(application, listener))
        del producer  # the mock cluster lives as long as it
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_mock_cluster() -> tuple[object, str]:
    """Return a mock cluster of this process, and its address. It lives as long as the object."""
    from confluent_kafka import Producer

    producer = Producer(
        # The mock cluster replaces the servers given; one broker, because nothing here is replicated.
        {"bootstrap.servers": "unused", "test.mock.num.brokers": 1, "log_level": 3}
    )
    [broker] = producer.list_topics(timeout=10).brokers.values()
    return producer, f"{broker.host}:{broker.port}"


def _load_ministack(port: int) -> Any:
    # It reads its environment at import. No state on disk; the errors of its log only.
    os.environ.update(
        GATEWAY_PORT=str(port),
        MINISTACK_HOST="127.0.0.1",
        SERVICES="sqs,dynamodb,s3",
        PERSIST_STATE="0",
        LOG_LEVEL="ERROR",
    )
    from ministack.app import app
    from ministack.services import sqs

    # SQS's own limit since August 2025; this version of ministack still has a quarter of it.
    sqs._NUMERIC_ATTR_RANGES["MaximumMessageSize"] = (1024, MAX_MESSAGE_BYTES)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        # Its own start-up opens further ports (SFTP, MQTT) and removes a user's ministack containers.
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await app(scope, receive, send)

    return application


async def _serve_http(application: Any, listener: socket.socket) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    # Longer than any client keeps a connection that it will use again.
    config.keep_alive_timeout = 3600
    config.loglevel = "ERROR"
    await serve(application, config, shutdown_trigger=lambda: asyncio.to_thread(wait_for_parent_end))


if __name__ == "__main__":
    _serve()
