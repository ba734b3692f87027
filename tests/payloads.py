"""An S3 server for tests: S3Mock alone, without the other local services; and the objects of a service."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.payloads.client import s3_client
from pipeline.services import jars
from pipeline.services.local import free_port, keeping
from pipeline.services.servers import HOST, S3Mock
from pipeline.settings import Settings
from tests.processes import wait_until


@contextlib.contextmanager
def s3mock() -> Iterator[str]:
    """Run S3Mock for the block and yield its URL; it ends and its folder goes even after kill -9."""
    folder = Path(tempfile.mkdtemp(prefix="pipeline-s3-"))
    with keeping(folder, remove=True):
        server = S3Mock(folder=folder, keep=False)
        ports: dict[str, int] = {}
        for name in server.port_names:
            ports[name] = free_port(ports.values())
        server.process.start(server.prepare(jars.fetch(server.name, lambda _: None), ports))
        wait_until(lambda: server.answers(ports) or not server.process.is_running(), server.title)
        assert server.process.is_running(), server.process.log_tail()
        yield f"http://{HOST}:{ports['s3']}"


def keys(settings: Settings) -> list[str]:
    """Return the keys of a service's objects."""
    answer = s3_client().list_objects_v2(
        Bucket=str(settings.payload_bucket), Prefix=f"{settings.service_name}/"
    )
    return sorted(each["Key"] for each in answer.get("Contents", ()))
