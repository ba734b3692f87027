"""The server configurations of config/ start the servers that they are for."""

import random
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.services import jars
from pipeline.services.process import stop
from pipeline.services.servers import HOST, ElasticMq, Kafka, Server
from tests.processes import wait_until

CONFIG = Path(__file__).parents[2] / "config"


class ConfiguredKafka(Kafka):
    """Kafka with config/kafka-server.properties, on other ports and with another folder."""

    def _properties(self, ports: Mapping[str, int]) -> str:
        text = (CONFIG / "kafka-server.properties").read_text()
        assert text.count("127.0.0.1:9092") == 2
        text = text.replace("127.0.0.1:9092", f"{HOST}:{ports['kafka']}")
        text = text.replace("127.0.0.1:9093", f"{HOST}:{ports['controller']}")
        return text.replace("log.dirs=.pipeline/kafka", f"log.dirs={self.data}")


class ConfiguredElasticMq(ElasticMq):
    """ElasticMQ with config/elasticmq.conf, on another port."""

    def prepare(self, jars: Path, ports: Mapping[str, int]) -> list[str]:
        """Replace the file that the local services write."""
        command = super().prepare(jars, ports)
        text = (CONFIG / "elasticmq.conf").read_text()
        assert text.count("9324") == 2
        (self.folder / "elasticmq.conf").write_text(text.replace("9324", str(ports["elasticmq"])))
        return command


@pytest.fixture
def ports() -> dict[str, int]:
    """Free ports, below those that systems give to outgoing connections."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        found = {}
        for name, probe in (("kafka", one), ("controller", two), ("elasticmq", three)):
            for port in random.sample(range(20_000, 30_000), 100):
                try:
                    probe.bind((HOST, port))
                except OSError:
                    continue
                found[name] = port
                break
    return found


@pytest.mark.parametrize("server", [ConfiguredKafka, ConfiguredElasticMq], ids=["kafka", "elasticmq"])
@pytest.mark.usefixtures("local_programs")
def test_a_server_starts_with_its_configuration(
    server: type[Server], tmp_path: Path, ports: dict[str, int]
) -> None:
    """It serves, with the listeners and limits of the file."""
    configured = server(folder=tmp_path, keep=False)
    configured.process.start(configured.prepare(jars.fetch(server.name, lambda _: None), ports))
    try:
        wait_until(
            lambda: configured.answers(ports) or not configured.process.is_running(), server.title, timeout=60
        )
        assert configured.process.is_running(), configured.process.log_tail()
    finally:
        stop([configured.process], 10)
