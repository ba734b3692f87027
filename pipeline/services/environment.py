"""Running services, as environment variables for processes that use them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: The profile of the credentials file; only emulators accept its keys.
AWS_PROFILE = "pipeline-local"

#: Variables that would make a process read or send secrets elsewhere: set to empty.
_ELSEWHERE = (
    "KAFKA_OAUTH_CA_LOCATION",
    "KAFKA_OAUTH_CLIENT_ID",
    "KAFKA_OAUTH_CLIENT_SECRET",
    "KAFKA_OAUTH_EXTENSIONS",
    "KAFKA_OAUTH_SCOPE",
    "KAFKA_OAUTH_TOKEN_URL",
    "KAFKA_SASL_MECHANISM",
    "KAFKA_SASL_PASSWORD",
    "KAFKA_SASL_USERNAME",
    "SCHEMA_REGISTRY_CERTIFICATE_LOCATION",
    "SCHEMA_REGISTRY_CLIENT_ID",
    "SCHEMA_REGISTRY_CLIENT_SECRET",
    "SCHEMA_REGISTRY_KEY_LOCATION",
    "SCHEMA_REGISTRY_KEY_PASSWORD",
    "SCHEMA_REGISTRY_PASSWORD",
    "SCHEMA_REGISTRY_TOKEN_URL",
    "SCHEMA_REGISTRY_URL",
    "SCHEMA_REGISTRY_USERNAME",
    "SSL_CERTIFICATE_LOCATION",
    "SSL_KEY_LOCATION",
    "SSL_KEY_PASSWORD",
    "VAULT_PATH",
)

#: Both emulators' default account.
ACCOUNT = "000000000000"

CREDENTIALS = f"""\
# Not a secret: the emulators accept any key. A profile, so that no key is in the environment.
[{AWS_PROFILE}]
aws_access_key_id = local
aws_secret_access_key = local
"""


@dataclass(frozen=True, kw_only=True)
class Services:
    """One running set of Kafka, SQS and DynamoDB."""

    #: The kind of services.
    name: Literal["embedded", "local"]
    #: The variables that a process needs in addition to its own.
    environment: Mapping[str, str]


def service_environment(
    *,
    kafka: str,
    group_protocol: Literal["classic", "consumer"],
    sqs: str,
    dynamodb: str,
    s3: str | None = None,
    folder: Path,
) -> dict[str, str]:
    """Return variables for Kafka at ``kafka`` (host:port), AWS's services at these URLs, and a service.

    Without ``s3`` no bucket is used, also if the user's own variables name one.

    Write the emulators' credentials file into ``folder``.
    """
    credentials, config = folder / "aws-credentials", folder / "aws-config"
    credentials.write_text(CREDENTIALS)
    # An empty configuration file of its own: the user's must not redirect or sign these calls.
    config.write_text(f"[profile {AWS_PROFILE}]\n")
    return {
        **dict.fromkeys(_ELSEWHERE, ""),
        "SERVICE_NAME": "pipeline",
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
        "KAFKA_GROUP_PROTOCOL": group_protocol,
        "KAFKA_CONSUMER_GROUP": "pipeline",
        "TOPIC_REPLICATION_FACTOR": "1",
        "SQS_TASK_QUEUE_URL": f"{sqs}/{ACCOUNT}/pipeline-tasks.fifo",
        "SQS_DLQ_URL": f"{sqs}/{ACCOUNT}/pipeline-dlq.fifo",
        "DYNAMODB_TABLE": "pipeline-jobs",
        "AWS_ENDPOINT_URL_SQS": sqs,
        "AWS_ENDPOINT_URL_DYNAMODB": dynamodb,
        **({"AWS_ENDPOINT_URL_S3": s3} if s3 else {"PAYLOAD_BUCKET": ""}),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_PROFILE": AWS_PROFILE,
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_CONFIG_FILE": str(config),
    }
