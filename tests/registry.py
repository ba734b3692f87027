"""A schema registry for tests: Apicurio Registry alone, without the other local services."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.services import jars
from pipeline.services.local import free_port, keeping
from pipeline.services.process import stop
from pipeline.services.servers import HOST, REGISTRY_PATH, Registry
from tests.processes import PATIENCE, wait_until


class RunningRegistry:
    """One registry, which can end and start again on its port."""

    def __init__(self, folder: Path, *, keep: bool = False) -> None:
        """``keep``: whether it has its schemas after a restart."""
        self._server = Registry(folder=folder, keep=keep)
        self._ports = {"registry": free_port(())}
        self.url = f"http://{HOST}:{self._ports['registry']}{REGISTRY_PATH}"

    def start(self) -> None:
        """Start it unless it runs; return once it answers."""
        server = self._server
        if server.process.is_running():
            return
        server.process.start(server.prepare(jars.fetch(server.name, lambda _: None), self._ports))
        wait_until(lambda: server.answers(self._ports) or not server.process.is_running(), server.title)
        assert server.process.is_running(), server.process.log_tail()

    def stop(self) -> None:
        """End it in order: a killed one loses the schemas of the last moment."""
        stop([self._server.process], PATIENCE)


@contextlib.contextmanager
def registry(*, keep: bool = False) -> Iterator[RunningRegistry]:
    """Run a registry for the block; it ends and its folder goes even when this process is killed."""
    folder = Path(tempfile.mkdtemp(prefix="pipeline-registry-"))
    with keeping(folder, remove=True):
        running = RunningRegistry(folder, keep=keep)
        running.start()
        yield running
