"""Authentication of every Kafka client and of the brokers it connects to: TLS, client certificates, SASL."""

import re
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from weakref import WeakMethod

import structlog
from confluent_kafka import KafkaException
from pydantic import SecretStr

from pipeline.errors import ConfigurationError, ServiceRefusedError
from pipeline.settings import Settings

log = structlog.get_logger(__name__)

#: MSK's AWS_MSK_IAM is, on the wire, this mechanism with a signed request as its token.
OAUTH = "OAUTHBEARER"

#: The property in librdkafka's message about a file that cannot be used.
_FILE = re.compile(r"(?:ssl\.\w+|https\.ca)\.location")
#: The settings of the properties that have not their name.
_SETTINGS = {"https.ca.location": "KAFKA_OAUTH_CA_LOCATION"}
#: Other settings that may be wrong with such a file.
_ALSO = {"SSL_KEY_LOCATION": ", SSL_KEY_PASSWORD, or the certificate it belongs to"}

Client = TypeVar("Client")

#: A token and when it ends, in seconds since 1970.
Token = tuple[str, float]


def security_configuration(settings: Settings) -> dict[str, Any]:
    """Return librdkafka's properties for the settings' security.

    Raises ConfigurationError when MSK's tokens are required and cannot be signed here.
    """
    protocol = settings.kafka_security_protocol
    configuration: dict[str, Any] = {"security.protocol": protocol}
    if protocol != "PLAINTEXT":
        configuration |= {
            "ssl.ca.location": settings.ssl_ca_location,
            "ssl.certificate.location": settings.ssl_certificate_location,
            "ssl.key.location": settings.ssl_key_location,
            "ssl.key.password": _shown(settings.ssl_key_password),
        }
    if protocol == "SASL_SSL":
        configuration |= _login(settings)
    return {name: value for name, value in configuration.items() if value is not None}


def _login(settings: Settings) -> dict[str, Any]:
    if settings.kafka_sasl_mechanism == "AWS_MSK_IAM":
        return {"sasl.mechanism": OAUTH, "oauth_cb": _msk_tokens(settings)}
    if settings.kafka_sasl_mechanism == OAUTH:
        # librdkafka asks for tokens on a thread of its own, and again at four fifths of a token's time.
        return {
            "sasl.mechanism": OAUTH,
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.token.endpoint.url": settings.kafka_oauth_token_url,
            "sasl.oauthbearer.client.id": settings.kafka_oauth_client_id,
            "sasl.oauthbearer.client.secret": _shown(settings.kafka_oauth_client_secret),
            "sasl.oauthbearer.scope": settings.kafka_oauth_scope,
            "sasl.oauthbearer.extensions": settings.kafka_oauth_extensions,
            "https.ca.location": settings.kafka_oauth_ca_location or _system_authorities(),
        }
    return {
        "sasl.mechanism": settings.kafka_sasl_mechanism,
        "sasl.username": settings.kafka_sasl_username,
        "sasl.password": _shown(settings.kafka_sasl_password),
    }


def _system_authorities() -> str | None:
    """Return the system's CA bundle or folder. The wheel's librdkafka looks only where Red Hat has it."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath


def make_client(kind: Callable[[dict[str, Any]], Client], configuration: dict[str, Any]) -> Client:
    """Return a client of this configuration; raises ServiceRefusedError for an unusable file or password."""
    try:
        return kind(configuration)
    except KafkaException as error:
        at = _FILE.search(error.args[0].str())
        named = _SETTINGS.get(at.group(), at.group().replace(".", "_").upper()) if at else ""
        mend = f" (correct {named}={configuration.get(at.group())}{_ALSO.get(named, '')})" if at else ""
        raise ServiceRefusedError(f"Could not make a Kafka client: {error.args[0].str()}{mend}") from error


def weak_callback(method: Callable[..., None]) -> Callable[..., None]:
    """Return a callback for a client that does not hold the client's owner, whose method it calls.

    Else client and owner, in a cycle, become garbage that is collected on any thread, the client's own among
    them, which signs tokens; librdkafka ends a process that destroys a client there [seen].
    """
    reference = WeakMethod(method)

    def call(*arguments: Any) -> None:
        if found := reference():
            found(*arguments)

    return call


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _msk_tokens(settings: Settings) -> Callable[[str], Token]:
    try:
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    except ImportError as error:
        raise ConfigurationError(
            "KAFKA_SASL_MECHANISM=AWS_MSK_IAM needs the signer: pip install 'celery-stages[msk]'."
        ) from error
    if not settings.aws_default_region:
        raise ConfigurationError("KAFKA_SASL_MECHANISM=AWS_MSK_IAM needs AWS_DEFAULT_REGION: MSK's region.")
    return partial(_msk_token, MSKAuthTokenProvider, settings.aws_default_region)


def _msk_token(provider: Any, region: str, _: str) -> Token:
    """Sign a token with the current credentials; librdkafka asks again before it ends."""
    try:
        token, expires_ms = provider.generate_auth_token(region)
    except Exception as error:
        log.error("kafka.token_failed", region=region, error=str(error))
        raise
    return token, expires_ms / 1000
