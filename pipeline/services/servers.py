"""The local servers: configuration, command and readiness of each."""

import http.client
import shutil
import socket
import struct
import subprocess
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.errors import ServiceUnavailableError
from pipeline.services.process import ServerProcess

HOST = "127.0.0.1"

#: Small and quick to start: without its second compiler a JVM serves sooner and needs less.
JAVA = ("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

#: Seconds for a server to answer one request.
ANSWER_TIMEOUT = 2.0


@dataclass(frozen=True, kw_only=True)
class Server(ABC):
    """A server with its data, pid file and log in ``folder``."""

    name: ClassVar[str]
    title: ClassVar[str]
    #: The names of the ports it listens on.
    port_names: ClassVar[tuple[str, ...]]

    folder: Path
    #: Whether its data survives a restart. If not, DynamoDB Local writes six times as fast.
    keep: bool

    @property
    def process(self) -> ServerProcess:
        """Its process."""
        return ServerProcess(name=self.name, folder=self.folder)

    @property
    def data(self) -> Path:
        """The folder of its data."""
        return self.folder / self.name

    def java(self) -> list[str]:
        """Return the java command with an empty temporary folder: servers leave unpacked libraries behind."""
        temporary = self.folder / f"{self.name}-tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        return [*JAVA, f"-Djava.io.tmpdir={temporary.resolve()}"]

    @abstractmethod
    def prepare(self, jars: Path, ports: Mapping[str, int]) -> list[str]:
        """Write its configuration and return the command that starts it."""

    @abstractmethod
    def answers(self, ports: Mapping[str, int]) -> bool:
        """Whether it answers a request."""


class Kafka(Server):
    """Apache Kafka: one node, broker and controller."""

    name = "kafka"
    title = "Apache Kafka"
    port_names: ClassVar[tuple[str, ...]] = ("kafka", "controller")

    def prepare(self, jars: Path, ports: Mapping[str, int]) -> list[str]:
        """Write server.properties; format the data folder the first time."""
        properties = self.folder / "kafka.properties"
        properties.write_text(self._properties(ports))
        java = [*self.java(), "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars}/*"]
        if not (self.data / "meta.properties").exists():
            self._format(java, properties)
        return [*java, "kafka.Kafka", str(properties)]

    def answers(self, ports: Mapping[str, int]) -> bool:
        """Whether its metadata lists the broker, which is so once it is registered and unfenced."""
        # Metadata v0 for all topics: size, key 3, version 0, correlation id, null client id, no topics.
        request = struct.pack(">ihhihi", 14, 3, 0, 1, -1, 0)
        try:
            with socket.create_connection((HOST, ports["kafka"]), ANSWER_TIMEOUT) as connection:
                connection.sendall(request)
                answer = connection.makefile("rb").read(12)
        except OSError:
            return False
        return len(answer) == 12 and struct.unpack(">iii", answer)[2] > 0

    def _properties(self, ports: Mapping[str, int]) -> str:
        broker, controller = f"{HOST}:{ports['kafka']}", f"{HOST}:{ports['controller']}"
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{broker}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.data,
            "offsets.topic.replication.factor": "1",
            # 50 by default: as many files to open, for groups of one machine.
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # A mistyped topic name is an error, as on a well-kept cluster.
            "auto.create.topics.enable": "false",
        }
        return "".join(f"{key}={value}\n" for key, value in lines.items())

    def _format(self, java: list[str], properties: Path) -> None:
        cluster = str(uuid.uuid4())
        done = subprocess.run(
            [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise ServiceUnavailableError(
                f"Kafka's data folder {self.data} could not be formatted:\n{done.stdout}"
            )


class ElasticMq(Server):
    """ElasticMQ, a server with the API of SQS."""

    name = "elasticmq"
    title = "ElasticMQ"
    port_names = ("elasticmq",)

    def prepare(self, jars: Path, ports: Mapping[str, int]) -> list[str]:
        """Write elasticmq.conf: the limits of AWS, and an H2 database if data is kept."""
        self.data.mkdir(exist_ok=True)
        port, configuration = ports["elasticmq"], self.folder / "elasticmq.conf"
        keep = "true" if self.keep else "false"
        configuration.write_text(
            'include classpath("application.conf")\n'
            f'node-address {{ protocol = http, host = "{HOST}", port = {port}, context-path = "" }}\n'
            f'rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = "{HOST}" }}\n'
            "rest-sqs.sqs-limits = strict\n"
            "rest-stats { enabled = false }\n"
            f'messages-storage {{ enabled = {keep}, uri = "jdbc:h2:{self.data}/messages" }}\n'
        )
        return [
            *self.java(),
            f"-Dconfig.file={configuration}",
            "-cp",
            f"{jars}/*",
            "org.elasticmq.server.Main",
        ]

    def answers(self, ports: Mapping[str, int]) -> bool:
        """Whether it lists its queues."""
        return _http_ok(ports["elasticmq"], "GET", "/?Action=ListQueues", {}, "")


class DynamoDb(Server):
    """DynamoDB Local."""

    name = "dynamodb"
    title = "DynamoDB Local"
    port_names = ("dynamodb",)

    def prepare(self, jars: Path, ports: Mapping[str, int]) -> list[str]:
        """Use one database for every key and region, in a file if data is kept."""
        self.data.mkdir(exist_ok=True)
        storage = ["-dbPath", str(self.data)] if self.keep else ["-inMemory"]
        return [
            *self.java(),
            f"-Djava.library.path={jars}",
            *("-cp", f"{jars}/*", "software.amazon.dynamodb.services.local.main.ServerRunner"),
            *("-port", str(ports["dynamodb"]), "-sharedDb", "-disableTelemetry", *storage),
        ]

    def answers(self, ports: Mapping[str, int]) -> bool:
        """Whether it lists its tables."""
        headers = {
            "X-Amz-Target": "DynamoDB_20120810.ListTables",
            "Content-Type": "application/x-amz-json-1.0",
            # It checks the form of a signature only.
            "Authorization": "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/dynamodb/aws4_request, "
            "SignedHeaders=host, Signature=0",
        }
        return _http_ok(ports["dynamodb"], "POST", "/", headers, "{}")


class Registry(Server):
    """Apicurio Registry, a schema registry with the API of Confluent's."""

    name = "registry"
    title = "Apicurio Registry"
    port_names = ("registry",)

    def prepare(self, jars: Path, ports: Mapping[str, int]) -> list[str]:
        """Use an H2 database, in a file if data is kept."""
        self.data.mkdir(exist_ok=True)
        database = f"file:{self.data}/registry" if self.keep else "mem:registry"
        options = {
            "quarkus.http.host": HOST,
            "quarkus.http.port": ports["registry"],
            "quarkus.http.access-log.enabled": "false",
            "quarkus.datasource.jdbc.url": f"jdbc:h2:{database}",
        }
        [jar] = jars.glob("*-runner.jar")
        return [*self.java(), *(f"-D{name}={value}" for name, value in options.items()), "-jar", str(jar)]

    def answers(self, ports: Mapping[str, int]) -> bool:
        """Whether it lists its subjects."""
        return _http_ok(ports["registry"], "GET", f"{REGISTRY_PATH}/subjects", {}, "")


class S3Mock(Server):
    """Adobe's S3Mock, a server with the API of S3."""

    name = "s3"
    title = "S3Mock"
    port_names = ("s3", "s3tls")

    def prepare(self, jars: Path, ports: Mapping[str, int]) -> list[str]:
        """Keep objects in files."""
        self.data.mkdir(exist_ok=True)
        options = {
            "com.adobe.testing.s3mock.httpPort": ports["s3"],
            "com.adobe.testing.s3mock.store.root": self.data,
            "com.adobe.testing.s3mock.store.retainFilesOnExit": "true" if self.keep else "false",
            "server.address": HOST,
            "server.port": ports["s3tls"],
            "logging.level.root": "WARN",
        }
        return [
            *self.java(),
            *(f"-D{name}={value}" for name, value in options.items()),
            *("-cp", f"{jars}/*", "com.adobe.testing.s3mock.S3MockApplication"),
        ]

    def answers(self, ports: Mapping[str, int]) -> bool:
        """Whether it lists its buckets."""
        return _http_ok(ports["s3"], "GET", "/", {}, "")


#: Where Apicurio Registry has the API of Confluent's.
REGISTRY_PATH = "/apis/ccompat/v7"

#: The servers of every stack, and by its name each that a stack has on request.
NEEDED: tuple[type[Server], ...] = (ElasticMq, DynamoDb, Kafka)
OPTIONAL: Mapping[str, type[Server]] = {server.name: server for server in (Registry, S3Mock)}


def servers_of(folder: Path, *, keep: bool, also: Iterable[str] = ()) -> tuple[Server, ...]:
    """Return the servers with their files in ``folder``; ``keep`` as in ``Server``.

    ``also``: names in ``OPTIONAL``.
    """
    kinds = (*NEEDED, *(OPTIONAL[name] for name in also))
    return tuple(server(folder=folder, keep=keep) for server in kinds)


def _http_ok(port: int, method: str, path: str, headers: Mapping[str, str], body: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_TIMEOUT)
    try:
        connection.request(method, path, body=body, headers=dict(headers))
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
