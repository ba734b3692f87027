"""Kafka's errors as decisions: try again (unavailable) or not (refused)."""

import re
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from pipeline.errors import MessageRefusedError, ServiceError, ServiceRefusedError, ServiceUnavailableError

#: Codes that are about one record and no other.
_RECORD_REFUSED = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
    }
)

#: Codes after which the same request gets the same answer. Others pass, or a new client mends them:
#: brokers away, leaders moving, timeouts, purged queues, fenced producers, group generations.
_REFUSED = frozenset(
    {
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_REQUEST,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_REPLICA_ASSIGNMENT,
        KafkaError.POLICY_VIOLATION,
        KafkaError.SECURITY_DISABLED,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._INVALID_ARG,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError._NOT_IMPLEMENTED,
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
    }
)

_WHO = (
    "correct KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, or the role, or KAFKA_OAUTH_*"
)

_WHERE = "start it, or correct KAFKA_BOOTSTRAP_SERVERS or KAFKA_SECURITY_PROTOCOL"

_MENDS = {
    KafkaError._TRANSPORT: _WHERE,
    KafkaError._RESOLVE: _WHERE,
    KafkaError._ALL_BROKERS_DOWN: _WHERE,
    KafkaError._AUTHENTICATION: _WHO,
    KafkaError.SASL_AUTHENTICATION_FAILED: _WHO,
    KafkaError._SSL: "correct SSL_CA_LOCATION, or SSL_CERTIFICATE_LOCATION and SSL_KEY_LOCATION, or name the "
    "brokers in KAFKA_BOOTSTRAP_SERVERS as their certificates do",
    KafkaError.UNKNOWN_TOPIC_OR_PART: 'run "pipeline provision", or correct the topic\'s name',
    KafkaError._UNKNOWN_TOPIC: 'run "pipeline provision", or correct the topic\'s name',
    KafkaError.MSG_SIZE_TOO_LARGE: "set PAYLOAD_BUCKET, and its data is kept on S3; or store it elsewhere "
    "and send where it is",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "allow the operation on the topic to this process",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "allow KAFKA_CONSUMER_GROUP to this process",
    KafkaError.INVALID_REPLICATION_FACTOR: "set TOPIC_REPLICATION_FACTOR to at most the number of brokers",
}


#: Words of librdkafka where a client got no token from KAFKA_OAUTH_TOKEN_URL. It asks again every 10 s.
_NO_TOKEN: Final = "Failed to acquire SASL OAUTHBEARER token: "  # noqa: S105
#: In them: that waiting does not mend it. The provider's error codes (RFC 6749, 5.2), its certificate, an
#: answer that holds no token, and the failure of this process's own signer (MSK).
_NO_TOKEN_EVER: Final = re.compile(
    r"invalid_|unauthorized_|unsupported_|access_denied|certificate|trust anchors|Expected|callback"
)


def no_token(error: KafkaError) -> KafkaError | None:
    """Return the error if it says that the server of the tokens did not answer; waiting may mend that."""
    text = error.str()
    return error if text.startswith(_NO_TOKEN) and not _NO_TOKEN_EVER.search(text) else None


def trust_error(error: KafkaError) -> KafkaError | None:
    """Return the error if a broker refuses this client's identity, or this client a broker's certificate.

    With TLS 1.3 a broker refuses a client's certificate after the handshake, when a request is under way:
    librdkafka then reports a lost connection.
    """
    if no_token(error):
        return None
    if error.code() in (
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._SSL,
    ):
        return error
    return KafkaError(KafkaError._SSL, error.str()) if "tls alert" in error.str() else None


def kafka_error(error: KafkaError | KafkaException, action: str) -> ServiceError:
    """Return the error as a decision. ``action``: what was being done, with the topic's name."""
    reason = error.args[0] if isinstance(error, KafkaException) else error
    code = reason.code()
    kind: type[ServiceError] = ServiceRefusedError if code in _REFUSED else ServiceUnavailableError
    if code in _RECORD_REFUSED:
        kind = MessageRefusedError
    if no_token(reason):
        kind = ServiceUnavailableError
    mend = f" ({_mend(reason)})" if code in _MENDS else ""
    converted = kind(f"Could not {action}: {reason.name()}: {reason.str()}{mend}")
    # A delivery report hands over a KafkaError, which is no exception: there is nothing else to chain to.
    converted.__cause__ = error if isinstance(error, KafkaException) else KafkaException(error)
    return converted


def _mend(error: KafkaError) -> str:
    if no_token(error):
        return "start the token's server, or correct KAFKA_OAUTH_TOKEN_URL"
    if error.str().startswith(_NO_TOKEN):
        return (
            "correct KAFKA_OAUTH_TOKEN_URL, KAFKA_OAUTH_CLIENT_ID, KAFKA_OAUTH_CLIENT_SECRET, "
            "KAFKA_OAUTH_SCOPE or KAFKA_OAUTH_CA_LOCATION; with AWS_MSK_IAM the role"
        )
    return _MENDS[error.code()]
