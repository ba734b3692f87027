"""TLS: a server with another host's certificate gets nothing, from any client of this project."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from botocore.exceptions import BotoCoreError

from pipeline.errors import PipelineError
from pipeline.jobs.dynamodb import dynamodb_client
from pipeline.kafka import EventProducer, KafkaAdmin, OutgoingRecord
from pipeline.settings import load_settings
from pipeline.sqs.client import sqs_client
from pipeline.vault import fill
from tests.processes import PATIENCE, wait_until
from tests.unit.test_settings import REQUIRED

HOST = "127.0.0.1"

#: One request of a client to HOST at a port. It fails in any case: the server speaks TLS and nothing else.
Request = Callable[[int, Path], None]


class Listener:
    """A TLS server that notes whether a client sends it anything, and closes."""

    def __init__(self, certificate: trustme.LeafCert) -> None:
        #: A client sent the first byte of a request.
        self.asked = threading.Event()
        #: A client came, and its connection has ended.
        self.met = threading.Event()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._socket = socket.create_server((HOST, 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            plain.settimeout(10)
            try:
                # Some clients compare the name once the handshake is done, and before they send anything.
                with self._context.wrap_socket(plain, server_side=True) as secured:
                    if secured.recv(1):
                        self.asked.set()
            except OSError:
                plain.close()
            self.met.set()

    @contextmanager
    def running(self) -> Iterator["Listener"]:
        """Serve while the block runs."""
        self._thread.start()
        try:
            yield self
        finally:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._thread.join()


def _kafka_environment(port: int, authority: Path) -> dict[str, str]:
    return {
        **REQUIRED,
        "KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{port}",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": "alice",
        "KAFKA_SASL_PASSWORD": "secret",
        "SSL_CA_LOCATION": str(authority),
    }


def kafka_admin(port: int, authority: Path) -> None:
    KafkaAdmin(load_settings(_kafka_environment(port, authority)), timeout=2).topics()


def kafka_producer(port: int, authority: Path) -> None:
    producer = EventProducer(load_settings(_kafka_environment(port, authority)), "test")
    try:
        [answer] = producer.emit([OutgoingRecord(topic="letters", key=b"k", value=b"v")], 2)
    finally:
        producer.close(0)
    if answer is not None:
        raise answer


def sqs(port: int, authority: Path) -> None:
    sqs_client(load_settings(REQUIRED), answer_within=2).list_queues()


def dynamodb(port: int, authority: Path) -> None:
    dynamodb_client().list_tables()


def lean_sqs(port: int, authority: Path) -> None:
    sqs_client(load_settings(REQUIRED), answer_within=2).receive_message(QueueUrl="q")


def lean_dynamodb(port: int, authority: Path) -> None:
    dynamodb_client().get_item(TableName="t", Key={})


def vault(port: int, authority: Path) -> None:
    address = {"VAULT_ADDR": f"https://{HOST}:{port}", "VAULT_CACERT": str(authority)}
    fill({**REQUIRED, **address, "VAULT_PATH": "teams/pipeline", "VAULT_TOKEN": "s.secret"})


@pytest.mark.parametrize(
    "request_of", [kafka_admin, kafka_producer, sqs, dynamodb, lean_sqs, lean_dynamodb, vault]
)
@pytest.mark.parametrize("case", ["this host", "another host", "another authority"])
def test_a_certificate_must_be_for_the_host_that_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_of: Request, case: str
) -> None:
    """Only the right name, signed by the right authority, is sent a request; the default of every client."""
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = {
        "this host": authority.issue_cert(HOST),
        "another host": authority.issue_cert("service.example.org"),
        "another authority": stranger.issue_cert(HOST),
    }[case]
    with Listener(certificate).running() as listener:
        for service in ("SQS", "DYNAMODB"):
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", f"https://{HOST}:{listener.port}")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")

        def has_failed() -> bool:
            with pytest.raises((PipelineError, BotoCoreError)):
                request_of(listener.port, tmp_path / "ca.pem")
            # A client that is slow may give up before its handshake is over.
            return listener.asked.is_set() or case != "this host"

        wait_until(has_failed, "a request")
        assert listener.met.wait(PATIENCE)
        assert listener.asked.is_set() is (case == "this host")
