"""Local services: Apache Kafka, ElasticMQ and DynamoDB Local from a data folder that survives restarts."""

import contextlib
import fcntl
import json
import random
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ServiceUnavailableError
from pipeline.services import jars
from pipeline.services.environment import Services, service_environment
from pipeline.services.keeper import GRACE, kept
from pipeline.services.process import POLL, stop
from pipeline.services.servers import HOST, Server, servers_of

#: Seconds a started server may take until it answers; Kafka takes about five.
START_TIMEOUT = 60.0

#: Below the ports that systems give to outgoing connections, so that none is taken between choice and use.
PORTS = range(20_000, 30_000)


def _silent(_line: str) -> None:
    """Show no progress."""


@contextlib.contextmanager
def local_services(
    data_folder: Path | None = None, progress: Callable[[str], None] = _silent
) -> Iterator[Services]:
    """Run the local services while the block runs, stopped even when this process is killed.

    ``data_folder`` None: a temporary one, removed afterwards, and nothing is kept over a restart. A stack
    that runs there already is used and left running. Raises ConfigurationError without java or mvn,
    ServiceUnavailableError when a server does not come up.
    """
    keep = data_folder is not None
    stack = LocalStack(data_folder or Path(tempfile.mkdtemp(prefix="pipeline-local-")), keep=keep)
    if (services := stack.services()) is not None:
        yield services
        return
    with kept(stack.folder, remove=not keep):
        yield stack.up(progress)


class LocalStack:
    """The local services of one data folder."""

    def __init__(self, folder: Path, *, keep: bool = True) -> None:
        #: Absolute: ElasticMQ's database refuses a relative path, and a stack may be used from elsewhere.
        self.folder = folder.absolute()
        self._servers = servers_of(self.folder, keep=keep)

    def up(self, progress: Callable[[str], None] = _silent) -> Services:
        """Start what does not run and return once all three answer; asking again changes nothing."""
        jars.require_programs()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            ports = self._choose_ports()
            for server in self._servers:
                if not server.process.is_running():
                    command = server.prepare(jars.fetch(server.name, progress), ports)
                    progress(f"starting {server.title} {jars.versions()[server.name]}")
                    server.process.start(command)
            for server in self._servers:
                _wait(server, ports)
                progress(f"{server.title} is ready on port {ports[server.name]}")
        return self._services(ports)

    def down(self) -> list[str]:
        """Stop what runs, and wait for it; the titles of the servers that were stopped."""
        running = [server for server in self._servers if server.process.is_running()]
        if running:
            with self._alone():
                stop([server.process for server in running], GRACE)
        return [server.title for server in running]

    def status(self) -> dict[str, "ServerStatus"]:
        """Every server by its name."""
        ports = self._read_ports()
        return {server.name: _status(server, ports) for server in self._servers}

    def services(self) -> Services | None:
        """The services, when all of them run and answer."""
        ready = all(status.ready for status in self.status().values())
        return self._services(self._read_ports()) if ready else None

    def _services(self, ports: Mapping[str, int]) -> Services:
        environment = service_environment(
            kafka=f"{HOST}:{ports['kafka']}",
            group_protocol="classic",
            sqs=f"http://{HOST}:{ports['elasticmq']}",
            dynamodb=f"http://{HOST}:{ports['dynamodb']}",
            folder=self.folder,
        )
        return Services(name="local", environment=environment)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep a second ``up`` or ``down`` of this folder out meanwhile."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _choose_ports(self) -> dict[str, int]:
        """The ports of last time where they are free or the server holds them; others for the rest."""
        known = self._read_ports()
        ports: dict[str, int] = {}
        for server in self._servers:
            running = server.process.is_running()
            for name in server.port_names:
                port = known.get(name)
                ports[name] = (
                    port if port and (running or _is_free(port)) else _free_port(set(ports.values()))
                )
        self._ports_file.write_text(json.dumps(ports))
        return ports

    def _read_ports(self) -> dict[str, int]:
        try:
            ports: dict[str, int] = json.loads(self._ports_file.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return ports

    @property
    def _ports_file(self) -> Path:
        return self.folder / "ports.json"


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """How one server is."""

    title: str
    version: str
    #: None: it does not run.
    pid: int | None
    port: int | None
    #: It answers.
    ready: bool


def _status(server: Server, ports: Mapping[str, int]) -> ServerStatus:
    pid = server.process.pid()
    return ServerStatus(
        title=server.title,
        version=jars.versions()[server.name],
        pid=pid,
        port=ports.get(server.name),
        ready=pid is not None and server.name in ports and server.answers(ports),
    )


def _wait(server: Server, ports: Mapping[str, int]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not server.answers(ports):
        ended, late = not server.process.is_running(), time.monotonic() > deadline
        if ended or late:
            what = "ended at its start" if ended else f"did not answer within {START_TIMEOUT:g} s"
            log = server.process
            raise ServiceUnavailableError(
                f"{server.title} {what}. The end of its log, {log.log_file}:\n{log.log_tail()}"
            )
        time.sleep(POLL)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port(taken: Collection[int]) -> int:
    for port in random.sample(PORTS, len(PORTS)):
        if port not in taken and _is_free(port):
            return port
    raise ServiceUnavailableError(f"No free port from {PORTS.start} to {PORTS.stop - 1}.")
