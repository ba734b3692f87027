"""TLS, SCRAM, tokens and client certificates against a real broker that asks for them."""

import base64
import contextlib
import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
from click.testing import CliRunner

from pipeline.author.registry import Registry
from pipeline.cli import main
from pipeline.errors import ServiceError, ServiceRefusedError, ServiceUnavailableError
from pipeline.kafka import (
    EventConsumer,
    EventProducer,
    GroupOffsets,
    KafkaAdmin,
    LogReader,
    OutgoingRecord,
    Partition,
    ReceivedRecord,
    list_groups,
    newest_records,
    security,
)
from pipeline.observe.dependencies import Dependencies
from pipeline.services.children import children
from pipeline.services.environment import Services
from pipeline.services.servers import HOST
from pipeline.settings import Settings, load_settings
from tests.conftest import MakeEnvironment
from tests.loglines import log_lines
from tests.processes import PATIENCE, wait_until
from tests.securekafka import KEY_PASSWORD, PASSWORD, PROVIDER, USER, SecureKafka, secure_kafka
from tests.tokenserver import Signer, TokenServer, token_server
from tests.unit.test_settings import REQUIRED


@pytest.fixture(scope="module")
def broker(local_programs: None) -> Iterator[SecureKafka]:
    with secure_kafka() as broker:
        yield broker


def _settings(broker: SecureKafka, **variables: str) -> Settings:
    own = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.sasl,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "SSL_CA_LOCATION": str(broker.authority),
        "TOPIC_PREFIX": f"{uuid.uuid4().hex[:8]}-",
        "KAFKA_CONSUMER_GROUP": uuid.uuid4().hex,
    }
    return load_settings({**REQUIRED, **own, **variables})


def _scram(broker: SecureKafka, mechanism: str = "SCRAM-SHA-512", **variables: str) -> Settings:
    own = {"KAFKA_SASL_MECHANISM": mechanism, "KAFKA_SASL_USERNAME": USER, "KAFKA_SASL_PASSWORD": PASSWORD}
    return _settings(broker, **{**own, **variables})


def _certified(broker: SecureKafka, **variables: str) -> Settings:
    own = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.mutual,
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "SSL_CERTIFICATE_LOCATION": str(broker.certificate),
        "SSL_KEY_LOCATION": str(broker.key),
        "SSL_KEY_PASSWORD": KEY_PASSWORD,
    }
    return _settings(broker, **{**own, **variables})


@contextlib.contextmanager
def _provider(broker: SecureKafka, **differences: Any) -> Iterator[tuple[TokenServer, Settings]]:
    """Run an OpenID provider; yield it, and the settings of a client of its."""
    server = TokenServer(
        signer=PROVIDER, subject=USER, client_id="orders", client_secret=PASSWORD, **differences
    )
    with token_server(server, broker.server):
        yield server, _with_tokens(broker, server)


def _with_tokens(broker: SecureKafka, server: TokenServer, **variables: str) -> Settings:
    return _settings(broker, **{**_tokens(broker, server), **variables})


def _tokens(broker: SecureKafka, server: TokenServer) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": broker.oidc,
        "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
        "KAFKA_OAUTH_TOKEN_URL": server.url,
        "KAFKA_OAUTH_CLIENT_ID": "orders",
        "KAFKA_OAUTH_CLIENT_SECRET": PASSWORD,
        "KAFKA_OAUTH_CA_LOCATION": str(broker.authority),
    }


def _every_client_works(settings: Settings) -> None:
    """Admin, producer, group consumer, log reader, offsets, groups and a look at the newest, each in turn."""
    topic = settings.topic("letters")
    assert KafkaAdmin(settings).create(topic, partitions=1, replication=1, config={})
    producer = EventProducer(settings, "test")
    try:
        assert producer.emit([OutgoingRecord(topic=topic, key=b"k", value=b"v")], PATIENCE) == [None]
    finally:
        producer.close(5)
    assert [message.value for message in newest_records(settings, topic, 1)] == [b"v"]
    assert [message.value for message in _consumed(settings, topic)] == [b"v"]
    reader = LogReader(settings, topic)
    try:
        reader.open(seconds=3600, records=10)
        assert [message.value for message in _until(lambda: reader.poll(10, 1))] == [b"v"]
    finally:
        reader.close()
    offsets = GroupOffsets(settings, settings.kafka_consumer_group)
    assert offsets.watermarks([topic]) == {Partition(topic, 0): (0, 1)}
    # In a child process, where no test can replace the signer of MSK.
    if settings.kafka_sasl_mechanism != "AWS_MSK_IAM":
        assert settings.kafka_consumer_group in list_groups(settings)


def _consumed(settings: Settings, topic: str) -> list[ReceivedRecord]:
    consumer = EventConsumer(
        settings,
        [topic],
        settings.kafka_consumer_group,
    )
    try:
        return _until(lambda: consumer.poll(10, 1))
    finally:
        consumer.close()


def _until(poll: Callable[[], list[ReceivedRecord]]) -> list[ReceivedRecord]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if messages := poll():
            return messages
    return []


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_password_over_tls_lets_every_client_in(broker: SecureKafka, mechanism: str) -> None:
    """With a login over TLS, all that this project does with Kafka works."""
    _every_client_works(_scram(broker, mechanism))


def test_a_client_certificate_lets_every_client_in(broker: SecureKafka) -> None:
    """With a certificate and an encrypted key of its own, all that this project does with Kafka works."""
    _every_client_works(_certified(broker))


def test_a_token_lets_every_client_in(broker: SecureKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MSK's signer gives the token, each kind of client asks for it and brings it."""
    asked: list[str] = []

    def sign(region: str) -> tuple[str, int]:
        asked.append(region)
        return _unsigned(seconds=300), int((time.time() + 300) * 1000)

    monkeypatch.setattr(MSKAuthTokenProvider, "generate_auth_token", sign)
    _every_client_works(_settings(broker, KAFKA_SASL_MECHANISM="AWS_MSK_IAM", AWS_DEFAULT_REGION="eu-west-1"))
    assert set(asked) == {"eu-west-1"}
    assert len(asked) >= 5


def _unsigned(seconds: float) -> str:
    """A JSON web token without a signature, as the broker's default validator takes it."""
    parts = {"alg": "none"}, {"sub": "alice", "iat": time.time(), "exp": time.time() + seconds}
    return (
        ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts) + "."
    )


REFUSALS = {
    "a wrong password": (_scram, {"KAFKA_SASL_PASSWORD": "wrong"}, "KAFKA_SASL_PASSWORD"),
    "an unknown user": (_scram, {"KAFKA_SASL_USERNAME": "mallory"}, "KAFKA_SASL_USERNAME"),
    "a stranger's authority": (_scram, {"SSL_CA_LOCATION": "stranger"}, "SSL_CA_LOCATION"),
    # Its certificate is for the address, not for the name.
    "a name that the broker has not": (
        _scram,
        {"KAFKA_BOOTSTRAP_SERVERS": "localhost"},
        "KAFKA_BOOTSTRAP_SERVERS",
    ),
    "no certificate": (
        _certified,
        dict.fromkeys(("SSL_CERTIFICATE_LOCATION", "SSL_KEY_LOCATION", "SSL_KEY_PASSWORD"), ""),
        "SSL_CERTIFICATE_LOCATION",
    ),
    "a wrong key password": (_certified, {"SSL_KEY_PASSWORD": "wrong"}, "SSL_KEY_PASSWORD"),
    "a missing key": (_certified, {"SSL_KEY_LOCATION": "/nowhere.key"}, "SSL_KEY_LOCATION=/nowhere.key"),
    "a missing authority": (_scram, {"SSL_CA_LOCATION": "/nowhere.pem"}, "SSL_CA_LOCATION=/nowhere.pem"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_wrong_is_said_at_once(broker: SecureKafka, case: str) -> None:
    """A wrong secret, certificate or authority is a refusal that names the setting to correct."""
    settings_of, variables, named = REFUSALS[case]
    known = {"stranger": str(broker.stranger), "localhost": broker.sasl.replace(HOST, "localhost")}
    variables = {name: known.get(value, value) for name, value in variables.items()}
    settings = settings_of(broker, **variables)
    began = time.monotonic()
    with pytest.raises(ServiceRefusedError) as refused:
        KafkaAdmin(settings, timeout=PATIENCE).topics()
    assert time.monotonic() - began < PATIENCE / 2
    assert named in str(refused.value)
    assert PASSWORD not in str(refused.value)


def test_health_says_that_a_secret_ended(broker: SecureKafka) -> None:
    """A password that holds no longer: unhealthy, with the setting and without the password."""
    began = time.monotonic()
    report = Dependencies(_scram(broker, KAFKA_SASL_PASSWORD="ended-long-ago"), Registry()).kafka()
    assert time.monotonic() - began < 12
    assert report.status == "unhealthy"
    assert report.error
    assert "KAFKA_SASL_PASSWORD" in report.error
    assert "ended-long-ago" not in str(report)


def test_a_token_that_cannot_be_made_is_logged_and_refused(
    broker: SecureKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials there is no token: the client is not let in, and nothing crashes."""

    def sign(region: str) -> tuple[str, int]:
        raise RuntimeError("no credentials")

    monkeypatch.setattr(MSKAuthTokenProvider, "generate_auth_token", sign)
    settings = _settings(broker, KAFKA_SASL_MECHANISM="AWS_MSK_IAM", AWS_DEFAULT_REGION="eu-west-1")
    with log_lines(security) as lines, pytest.raises(ServiceError):
        KafkaAdmin(settings, timeout=3).topics()
    assert {"event": "kafka.token_failed", "error": "no credentials"}.items() <= lines[0].items()


def test_a_token_of_an_openid_provider_lets_every_client_in(broker: SecureKafka) -> None:
    """With client credentials, each kind of client gets a token with the scope, which the broker checks."""
    with _provider(broker) as (server, _):
        extras = {"KAFKA_OAUTH_SCOPE": "kafka.write", "KAFKA_OAUTH_EXTENSIONS": "logicalCluster=lkc-1,pool=a"}
        _every_client_works(_with_tokens(broker, server, **extras))
        assert len(server.asked) >= 7
        assert {tuple(form["scope"]) for form in server.asked} == {("kafka.write",)}


def test_the_systems_authorities_are_those_of_the_provider(
    broker: SecureKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without KAFKA_OAUTH_CA_LOCATION its certificate is checked against the system's bundle."""
    monkeypatch.setenv("SSL_CERT_FILE", str(broker.authority))
    with _provider(broker) as (server, _):
        KafkaAdmin(_with_tokens(broker, server, KAFKA_OAUTH_CA_LOCATION="")).topics()


class _Conversation:
    """A producer and a consumer that live on, and what went from one to the other."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topic("letters")
        KafkaAdmin(settings).create(self._topic, partitions=1, replication=1, config={})
        self.producer = EventProducer(settings, "test")
        self.consumer = EventConsumer(settings, [self._topic], settings.kafka_consumer_group)
        self._sent: list[bytes] = []
        self._read: list[bytes] = []

    def send(self) -> None:
        """Produce one more record; it may wait for the brokers."""
        self._sent.append(b"%d" % len(self._sent))
        self.producer.produce(
            OutgoingRecord(topic=self._topic, key=b"k", value=self._sent[-1]), lambda _: None
        )

    def has_all(self) -> bool:
        """Whether each record was read, once and in order."""
        self._read += [record.value or b"" for record in self.consumer.poll(10, 0.2)]
        return self._read == self._sent

    def answers(self) -> bool:
        """Whether brokers answer the producer."""
        try:
            self.producer.check_topic(self._topic, 1)
        except ServiceError:
            return False
        return True

    def close(self) -> None:
        self.producer.close(5)
        self.consumer.close()


def test_clients_outlive_their_tokens(broker: SecureKafka) -> None:
    """Both get new tokens long after those that they began with have ended, and nothing is lost."""
    with _provider(broker, seconds=5) as (server, settings):
        talk = _Conversation(settings)
        try:
            began = len(server.asked)
            # Four of each client, after the one that it began with.
            wait_until(lambda: talk.has_all() and len(server.asked) >= began + 8, "the tokens are renewed")
            talk.send()
            wait_until(talk.has_all, "the record is read")
        finally:
            talk.close()


def test_a_provider_that_is_away_delays_records_and_loses_none(broker: SecureKafka) -> None:
    """Its tokens end and brokers cut the connections; what was produced meanwhile arrives once it is back."""
    with _provider(broker, seconds=3) as (server, settings):
        talk = _Conversation(settings)
        try:
            talk.send()
            wait_until(talk.has_all, "the first record is read")
            server.ill = 400
            wait_until(lambda: server.refused and not talk.answers(), "the connections are cut")
            talk.send()
            server.ill = None
            wait_until(talk.has_all, "the record is read")
        finally:
            talk.close()


def test_a_job_is_done_by_processes_that_bring_tokens(
    broker: SecureKafka, embedded_services: Services, make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    """A bridge, a worker and a person's command take a job to its end, through tokens that end meanwhile."""
    (tmp_path / "bread").touch()
    with _provider(broker) as (server, _), children() as started:
        environment = make_environment(
            embedded_services,
            **_tokens(broker, server),
            KAFKA_SECURITY_PROTOCOL="SASL_SSL",
            SSL_CA_LOCATION=str(broker.authority),
            TASK_MODULES="tests.integration.mending",
            MENDED=str(tmp_path),
        )

        def run(*arguments: str) -> Any:
            done = CliRunner().invoke(main, [*arguments, "--json"], env=environment)
            assert done.exit_code == 0, done.output
            return json.loads(done.stdout.splitlines()[0])

        assert CliRunner().invoke(main, ["provision"], env=environment).exit_code == 0
        job_id = run("submit", "broken", "--data", '"bread"')["job_id"]
        # Those of a command are not renewed while it waits for a busy machine, and it says so and ends.
        server.seconds = 5
        with (tmp_path / "log").open("ab") as log:
            for role in ("bridge", "worker"):
                command = [sys.executable, "-m", "celery", "-A", "pipeline", role]
                started.start(command, environment=environment, output=log)
        try:
            wait_until(lambda: run("jobs", "show", job_id)["state"] == "complete", "the job's end", 120)
        except AssertionError:
            pytest.fail((tmp_path / "log").read_text()[-6000:])


PROVIDERS: dict[str, tuple[dict[str, str], type[ServiceError], str]] = {
    "a wrong secret": (
        {"KAFKA_OAUTH_CLIENT_SECRET": "wrong"},
        ServiceRefusedError,
        "KAFKA_OAUTH_CLIENT_SECRET",
    ),
    "a stranger's authority": (
        {"KAFKA_OAUTH_CA_LOCATION": "stranger"},
        ServiceRefusedError,
        "KAFKA_OAUTH_CA_LOCATION",
    ),
    "a missing authority": (
        {"KAFKA_OAUTH_CA_LOCATION": "/nowhere.pem"},
        ServiceRefusedError,
        "KAFKA_OAUTH_CA_LOCATION=/nowhere.pem",
    ),
    "a provider that is away": (
        {"KAFKA_OAUTH_TOKEN_URL": "https://127.0.0.1:1/token"},
        ServiceUnavailableError,
        "Could not connect to server (start the token's server, or correct KAFKA_OAUTH_TOKEN_URL)",
    ),
}


@pytest.mark.parametrize("case", PROVIDERS)
def test_why_there_is_no_token_is_told(broker: SecureKafka, case: str) -> None:
    """Waiting does not mend a refusal, but a provider that is away. Both errors name the setting."""
    variables, kind, named = PROVIDERS[case]
    variables = {name: {"stranger": str(broker.stranger)}.get(each, each) for name, each in variables.items()}
    with _provider(broker) as (server, _), pytest.raises(kind) as raised:
        KafkaAdmin(_with_tokens(broker, server, **variables), timeout=2).topics()
    assert named in str(raised.value)
    assert PASSWORD not in str(raised.value)


def test_a_token_that_another_provider_signed_is_refused(broker: SecureKafka) -> None:
    """The broker checks the signature: the client is not let in."""
    with _provider(broker) as (server, settings):
        server.signer = Signer("tests")
        with pytest.raises(ServiceRefusedError, match="KAFKA_OAUTH"):
            KafkaAdmin(settings, timeout=PATIENCE).topics()
