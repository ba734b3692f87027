"""A real Kafka broker for tests that asks for TLS and passwords, tokens or client certificates."""

import contextlib
import secrets
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

from pipeline.infra.needs import ROLES
from pipeline.services import jars
from pipeline.services.local import free_port, keeping, wait_for_server
from pipeline.services.servers import HOST, Kafka
from tests.tokenserver import AUDIENCE, Signer

USER, PASSWORD = "alice", secrets.token_hex(8)
KEY_PASSWORD = secrets.token_hex(8)
#: Signs the tokens that the broker takes.
PROVIDER = Signer("tests")

_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
#: Which protocol each listener speaks.
_PROTOCOLS = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,OIDC:SASL_SSL"
_BROKER = 'unsecuredLoginStringClaim_sub="broker"'
_OAUTH = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
_VALIDATOR = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


@dataclass(frozen=True, kw_only=True)
class SecureKafka:
    """The broker that runs, and the files a client needs."""

    #: host:port of the listener that asks for SASL over TLS.
    sasl: str
    #: host:port of the listener that asks for a client certificate.
    mutual: str
    #: host:port of the listener that asks for a token which an OpenID provider signed (``TokenServer``). A
    #: connection is cut when its token ends, unless the client brings another one.
    oidc: str
    #: The certificate and key of this machine, in one file, for other servers.
    server: Path
    #: The file with the public keys (JWKS) of the provider whose tokens are taken; one of a test writes it.
    jwks: Path
    #: The authority that signed the broker.
    authority: Path
    #: Another authority, which signed nothing here.
    stranger: Path
    certificate: Path
    #: Encrypted with KEY_PASSWORD.
    key: Path


@dataclass(frozen=True, kw_only=True)
class _SecureServer(Kafka):
    """Kafka with two more listeners. The plain one is for the broker itself."""

    def _properties(self, ports: Mapping[str, int]) -> str:
        plain, controller = f"{HOST}:{ports['kafka']}", f"{HOST}:{ports['controller']}"
        more = {
            "SASL": f"SASL_SSL://{HOST}:{ports['sasl']}",
            "MUTUAL": f"SSL://{HOST}:{ports['mutual']}",
            "OIDC": f"OIDC://{HOST}:{ports['oidc']}",
        }
        open_to_clients = ",".join([f"PLAINTEXT://{plain}", *more.values()])
        lines = {
            "listeners": f"{open_to_clients},CONTROLLER://{controller}",
            "advertised.listeners": open_to_clients,
            "listener.security.protocol.map": _PROTOCOLS,
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": f"{_SCRAM} required;",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{_SCRAM} required;",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{_PLAIN} required user_{USER}="{PASSWORD}";',
            # Takes tokens that nobody signed: what is tested is that a client brings one, and renews it.
            "listener.name.sasl_ssl.oauthbearer.sasl.jaas.config": f"{_OAUTH} required {_BROKER};",
            "listener.name.oidc.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.oidc.oauthbearer.sasl.jaas.config": f"{_OAUTH} required;",
            "listener.name.oidc.oauthbearer.sasl.server.callback.handler.class": _VALIDATOR,
            "listener.name.oidc.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": self._jwks,
            "listener.name.oidc.oauthbearer.sasl.oauthbearer.expected.audience": AUDIENCE,
            "listener.name.oidc.oauthbearer.connections.max.reauth.ms": 3_600_000,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.folder / "broker.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.folder / "ca.pem",
            "listener.name.ssl.ssl.client.auth": "required",
            # Those of the tests of security itself may do all; the processes of a service what is granted.
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{USER};User:certified",
            "ssl.principal.mapping.rules": "RULE:^.*$/certified/",
        }
        known = dict(line.split("=", 1) for line in super()._properties(ports).splitlines())
        return "".join(f"{key}={value}\n" for key, value in {**known, **lines}.items())

    def java(self) -> list[str]:
        """Return the java command that allows the broker to read the provider's keys."""
        return [*super().java(), f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self._jwks}"]

    @property
    def _jwks(self) -> str:
        return (self.folder / "jwks.json").as_uri()

    def _format(self, java: list[str], properties: Path) -> None:
        scram = [
            option
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for user in (USER, *ROLES)
            for option in ("--add-scram", f"{mechanism}=[name={user},password={PASSWORD}]")
        ]
        command = [*java, "kafka.tools.StorageTool", "format", "-t", str(uuid.uuid4())]
        subprocess.run(
            [*command, "-c", str(properties), *scram],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=True,
        )


@contextlib.contextmanager
def secure_kafka() -> Iterator[SecureKafka]:
    """Run the broker while the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="pipeline-secure-"))
    made = issue(folder)
    ports: dict[str, int] = {}
    for name in ("kafka", "controller", "sasl", "mutual", "oidc"):
        ports[name] = free_port(set(ports.values()))
    server = _SecureServer(folder=folder, keep=False)
    with keeping(folder, remove=True):
        server.process.start(server.prepare(jars.fetch("kafka", lambda _: None), ports))
        wait_for_server(server, ports)
        sasl, mutual, oidc = (f"{HOST}:{ports[name]}" for name in ("sasl", "mutual", "oidc"))
        yield SecureKafka(sasl=sasl, mutual=mutual, oidc=oidc, **made)


def issue(folder: Path) -> dict[str, Path]:
    """Write authorities, certificates and keys into a folder; return their files, named as in SecureKafka."""
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    stranger.cert_pem.write_to_path(str(folder / "stranger.pem"))
    broker, client = authority.issue_cert(HOST), authority.issue_cert("client@example.org")
    (folder / "broker.pem").write_bytes(
        _pkcs8(broker, None) + b"".join(p.bytes() for p in broker.cert_chain_pems)
    )
    client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    (folder / "jwks.json").write_text(PROVIDER.jwks())
    (folder / "client.key").write_bytes(_pkcs8(client, KEY_PASSWORD))
    return {
        "authority": folder / "ca.pem",
        "stranger": folder / "stranger.pem",
        "certificate": folder / "client.pem",
        "key": folder / "client.key",
        "server": folder / "broker.pem",
        "jwks": folder / "jwks.json",
    }


def _pkcs8(certificate: trustme.LeafCert, password: str | None) -> bytes:
    """Its key in the one form that both Kafka and librdkafka read."""
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    hidden = (
        serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
