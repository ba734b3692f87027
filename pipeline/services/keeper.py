"""Stops a folder's local servers when the process that started this one ends, however it ends.

``python -m pipeline.services.keeper FOLDER [--remove]``, with a pipe as standard input.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.services.parent import end_keeper, start_keeper, wait_for_parent_end
from pipeline.services.process import stop
from pipeline.services.servers import servers_of

#: Seconds the servers have to end by themselves; Kafka takes about two.
GRACE = 15.0


@contextmanager
def kept(folder: Path, *, remove: bool) -> Iterator[None]:
    """Have the servers of ``folder`` stopped, and the folder removed, after the block or after kill -9."""
    keeper = start_keeper(__spec__.name, str(folder), *(["--remove"] if remove else []))
    try:
        yield
    finally:
        end_keeper(keeper)


def _keep(folder: Path, *, remove: bool) -> None:
    wait_for_parent_end()
    # Data that is thrown away needs no orderly end.
    servers = servers_of(folder, keep=not remove)
    try:
        stop([server.process for server in servers], grace=0 if remove else GRACE)
    finally:
        if remove:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), remove="--remove" in sys.argv[2:])
