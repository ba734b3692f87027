"""Local services: Apache Kafka, ElasticMQ, DynamoDB Local and others, with data that survives restarts.

``python -m pipeline.services.local FOLDER [--remove]`` is the keeper of a folder's servers: it stops them
when its parent process ends, even after kill -9.
"""

import contextlib
import fcntl
import json
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ServiceUnavailableError
from pipeline.services import jars
from pipeline.services.children import end_keeper, start_keeper, wait_for_parent_end
from pipeline.services.environment import Services, service_environment
from pipeline.services.process import POLL, stop
from pipeline.services.servers import HOST, OPTIONAL, REGISTRY_PATH, Server, servers_of

#: Seconds for a started server until it answers; Kafka takes about five.
START_TIMEOUT = 60.0

#: Below the ports of outgoing connections, so that none is taken between choice and use.
PORTS = range(20_000, 30_000)

#: Seconds for the servers to end by themselves; Kafka takes about two.
GRACE = 15.0


def _silent(_line: str) -> None:
    """Show no progress."""


@contextlib.contextmanager
def local_services(
    data_folder: Path | None = None,
    progress: Callable[[str], None] = _silent,
    also: Iterable[str] = (),
) -> Iterator[Services]:
    """Run the local services for the block; they stop even when this process is killed.

    ``data_folder`` None: a temporary folder, removed afterwards. A stack that already runs in the folder is
    used and left running. Raises ConfigurationError without java or mvn, ServiceUnavailableError when a
    server does not start.
    """
    keep = data_folder is not None
    folder = data_folder or Path(tempfile.mkdtemp(prefix="pipeline-local-"))
    stack = LocalStack(folder, keep=keep, also=also)
    if (services := stack.services()) is not None:
        yield services
        return
    with keeping(stack.folder, remove=not keep):
        yield stack.up(progress)


class LocalStack:
    """The local services of one data folder."""

    def __init__(self, folder: Path, *, keep: bool = True, also: Iterable[str] = ()) -> None:
        """``also``: names of optional servers; those that the folder had before are its servers, too."""
        #: Absolute: ElasticMQ's database refuses a relative path, and a stack may be used from other folders.
        self.folder = folder.absolute()
        known = self._read_ports().keys() & OPTIONAL.keys()
        self._servers = servers_of(self.folder, keep=keep, also=sorted(known | set(also)))

    def up(self, progress: Callable[[str], None] = _silent) -> Services:
        """Start the servers that do not run; return once all of them answer."""
        jars.require_programs(server.name for server in self._servers)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            ports = self._choose_ports()
            for server in self._servers:
                if not server.process.is_running():
                    command = server.prepare(jars.fetch(server.name, progress), ports)
                    progress(f"starting {server.title} {jars.versions()[server.name]}")
                    server.process.start(command)
            for server in self._servers:
                wait_for_server(server, ports)
                progress(f"{server.title} is ready on port {ports[server.name]}")
        return self._services(ports)

    def down(self) -> list[str]:
        """Stop the running servers and wait for their end; return their titles."""
        running = [server for server in self._servers if server.process.is_running()]
        if running:
            with self._alone():
                stop([server.process for server in running], GRACE)
        return [server.title for server in running]

    def status(self) -> dict[str, "ServerStatus"]:
        """Return every server's status by its name."""
        ports = self._read_ports()
        return {server.name: _status(server, ports) for server in self._servers}

    def services(self) -> Services | None:
        """Return the services when all of them answer, else None."""
        ready = all(status.ready for status in self.status().values())
        return self._services(self._read_ports()) if ready else None

    def _services(self, ports: Mapping[str, int]) -> Services:
        environment = service_environment(
            kafka=f"{HOST}:{ports['kafka']}",
            group_protocol="classic",
            sqs=f"http://{HOST}:{ports['elasticmq']}",
            dynamodb=f"http://{HOST}:{ports['dynamodb']}",
            s3=f"http://{HOST}:{ports['s3']}" if "s3" in ports else None,
            folder=self.folder,
        )
        if "s3" in ports:
            environment["PAYLOAD_BUCKET"] = "pipeline-payloads"
        if "registry" in ports:
            environment["SCHEMA_REGISTRY_URL"] = f"http://{HOST}:{ports['registry']}{REGISTRY_PATH}"
        return Services(name="local", environment=environment)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Exclude a second ``up`` or ``down`` of this folder."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _choose_ports(self) -> dict[str, int]:
        """Return the last ports if free or held by the server, else new ones."""
        known = self._read_ports()
        ports: dict[str, int] = {}
        for server in self._servers:
            running = server.process.is_running()
            for name in server.port_names:
                port = known.get(name)
                ports[name] = port if port and (running or _is_free(port)) else free_port(set(ports.values()))
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
    """The status of one server."""

    title: str
    version: str
    #: None: not running.
    pid: int | None
    port: int | None
    #: Whether it answers.
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


def wait_for_server(server: Server, ports: Mapping[str, int]) -> None:
    """Wait until a started server answers; raise ``ServiceUnavailableError`` if it ends, or is too late."""
    deadline = time.monotonic() + START_TIMEOUT
    while not server.answers(ports):
        ended, late = not server.process.is_running(), time.monotonic() > deadline
        if ended or late:
            outcome = "ended at its start" if ended else f"did not answer within {START_TIMEOUT:g} s"
            log = server.process
            raise ServiceUnavailableError(
                f"{server.title} {outcome}. The end of its log, {log.log_file}:\n{log.log_tail()}"
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


def free_port(taken: Collection[int]) -> int:
    """Return a port that is free now and not ``taken``; raise ``ServiceUnavailableError`` without one."""
    for port in random.sample(PORTS, len(PORTS)):
        if port not in taken and _is_free(port):
            return port
    raise ServiceUnavailableError(f"No free port from {PORTS.start} to {PORTS.stop - 1}.")


# ─── The keeper ───


@contextlib.contextmanager
def keeping(folder: Path, *, remove: bool) -> Iterator[None]:
    """Stop the servers of ``folder``, and remove it if asked, after the block or after kill -9."""
    keeper = start_keeper(__spec__.name, str(folder), *(["--remove"] if remove else []))
    try:
        yield
    finally:
        end_keeper(keeper)


def _keep(folder: Path, *, remove: bool) -> None:
    wait_for_parent_end()
    # Data that is removed needs no orderly end.
    servers = servers_of(folder, keep=not remove, also=OPTIONAL)
    try:
        stop([server.process for server in servers], grace=0 if remove else GRACE)
    finally:
        if remove:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), remove="--remove" in sys.argv[2:])
