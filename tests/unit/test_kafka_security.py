"""The configuration of a Kafka client by the security settings."""

import base64
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from pipeline.errors import ConfigurationError
from pipeline.kafka.security import security_configuration
from pipeline.services.environment import service_environment
from pipeline.settings import Settings, load_settings
from tests.unit.test_settings import CERTIFICATE, REQUIRED, SCRAM, TOKENS

MSK = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "AWS_MSK_IAM"}


def _settings(**variables: str) -> Settings:
    return load_settings({**REQUIRED, **variables})


def test_a_plain_connection_has_nothing_to_configure() -> None:
    """On one machine: no TLS, whatever CA bundle the environment names."""
    settings = _settings(KAFKA_SECURITY_PROTOCOL="PLAINTEXT", SSL_CA_LOCATION="ca.pem")
    assert security_configuration(settings) == {"security.protocol": "PLAINTEXT"}


def test_each_setting_has_its_property() -> None:
    """Password, authority, certificate and key reach librdkafka, secrets in the clear."""
    settings = _settings(**SCRAM, **CERTIFICATE, SSL_CA_LOCATION="ca.pem", SSL_KEY_PASSWORD="pw")
    assert security_configuration(settings) == {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": "ca.pem",
        "ssl.certificate.location": "client.pem",
        "ssl.key.location": "client.key",
        "ssl.key.password": "pw",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "alice",
        "sasl.password": "hunter2",
    }


def test_a_provider_of_tokens_has_its_properties() -> None:
    """Address, client, scope and extensions reach librdkafka; its server is checked by its own authority."""
    more = {"KAFKA_OAUTH_SCOPE": "kafka", "KAFKA_OAUTH_EXTENSIONS": "logicalCluster=lkc-1,identityPoolId=p"}
    settings = _settings(**TOKENS, **more, SSL_CA_LOCATION="brokers.pem", KAFKA_OAUTH_CA_LOCATION="own.pem")
    assert security_configuration(settings) == {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": "brokers.pem",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": "https://login.example.org/token",
        "sasl.oauthbearer.client.id": "orders",
        "sasl.oauthbearer.client.secret": "hunter2",
        "sasl.oauthbearer.scope": "kafka",
        "sasl.oauthbearer.extensions": "logicalCluster=lkc-1,identityPoolId=p",
        "https.ca.location": "own.pem",
    }


def test_msks_token_is_a_signed_request_of_this_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real signer, with a profile's credentials: a request to connect, for the region, that ends soon."""
    environment = service_environment(
        kafka="", group_protocol="classic", sqs="", dynamodb="", folder=tmp_path
    )
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    configuration = security_configuration(_settings(**MSK, AWS_DEFAULT_REGION="eu-west-1"))
    assert configuration["sasl.mechanism"] == "OAUTHBEARER"
    token, ends = configuration["oauth_cb"]("")
    url = urlsplit(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    query = parse_qs(url.query)
    assert url.hostname == "kafka.eu-west-1.amazonaws.com"
    assert query["Action"] == ["kafka-cluster:Connect"]
    assert query["X-Amz-Credential"][0].startswith("local/")
    assert 0 < ends - time.time() <= 900


def test_msk_needs_a_region() -> None:
    """Without a region no token can be signed: said at start."""
    with pytest.raises(ConfigurationError, match="AWS_DEFAULT_REGION"):
        security_configuration(_settings(**MSK))


def test_msk_needs_its_signer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the error says what to install."""
    monkeypatch.setitem(sys.modules, "aws_msk_iam_sasl_signer", None)
    with pytest.raises(ConfigurationError, match=r"celery-stages\[msk\]"):
        security_configuration(_settings(**MSK, AWS_DEFAULT_REGION="eu-west-1"))
