"""The environment variables of this project, read once at start and passed down."""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.errors import ConfigurationError
from pipeline.loopback import is_loopback

TOPIC_VARIABLE = "KAFKA_TOPIC_"

#: arn:partition:kafka:region:account:cluster/name/uuid
MSK_CLUSTER_ARN = r"^arn:[^:]+:kafka:[^:]+:\d{12}:cluster/[^/]+/[^/]+$"

#: The key itself: a policy cannot name an alias.
KMS_KEY_ARN = r"^arn:[^:]+:kms:[^:]+:\d{12}:key/[^/]+$"

#: Names of letters only, as the mechanism asks (RFC 7628); librdkafka separates them by commas.
OAUTH_EXTENSIONS = r"^[A-Za-z]+=[^,=\s]+(,[A-Za-z]+=[^,=\s]+)*$"

#: How a client logs in. MSK's AWS_MSK_IAM is, on the wire, OAUTHBEARER with a signed request as its token.
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"]

#: Those with a user and a password.
PASSWORD_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

#: Characters of a wrong value in an error message.
VALUE_SHOWN = 100

#: The fewest characters of a token that others can try to guess, and the fewest different ones.
TOKEN_LENGTH, TOKEN_VARIETY = 16, 8

#: Shards of the table's index: those that every version reads, which are the default, and the most: a list
#: without jobs reads each of them for every day and state.
FEWEST_SHARDS, MOST_SHARDS = 4, 64

#: Logical topics that every service has besides those of its stages.
ERRORS_TOPIC, DLQ_TOPIC, JOBS_TOPIC = "errors", "dlq", "jobs"


class Settings(BaseModel):
    """The settings of a service. Field names are the environment variables, in lower case.

    Times are in seconds unless the name says otherwise. Only the edges (command line, Celery app,
    bridge command) call ``load_settings``; all other code receives the object.
    """

    # An input must not appear in an error: it may be a password.
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    # ─── Service identity ───
    service_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    task_modules: tuple[str, ...] = ("tasks",)
    #: None: ``consumers`` beside ``tasks``, if there is such a package.
    consumer_modules: tuple[str, ...] | None = None

    # ─── Kafka ───
    kafka_bootstrap_servers: str
    kafka_consumer_group: str
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_SSL"] = "SSL"
    ssl_ca_location: str | None = None
    #: The client's certificate and key (PEM files), if the brokers require one.
    ssl_certificate_location: str | None = None
    ssl_key_location: str | None = None
    ssl_key_password: SecretStr | None = None
    kafka_sasl_mechanism: SaslMechanism | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    #: With OAUTHBEARER: where this client gets its tokens (OpenID Connect, client credentials), and as whom.
    kafka_oauth_token_url: str | None = None
    kafka_oauth_client_id: str | None = None
    kafka_oauth_client_secret: SecretStr | None = None
    kafka_oauth_scope: str | None = None
    #: Told to the brokers with each token: "name=value,name=value" (RFC 7628).
    kafka_oauth_extensions: str | None = Field(default=None, pattern=OAUTH_EXTENSIONS)
    #: The CA bundle that the token's server is checked against.
    kafka_oauth_ca_location: str | None = None
    kafka_enabled: bool = True
    kafka_group_protocol: Literal["classic", "consumer"] = "classic"
    #: Static membership: a member that returns under this id within the session timeout keeps its partitions.
    kafka_group_instance_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,200}$")
    topic_prefix: str = ""
    topics: dict[str, str] = Field(default_factory=dict)
    topic_partitions: int = Field(default=6, ge=1)
    #: Of the topics that are no stage's: errors, DLQ, jobs. One is enough for a thousand records a second.
    service_topic_partitions: int = Field(default=1, ge=1)
    topic_replication_factor: int = Field(default=3, ge=1)
    topic_retention_days: float = Field(default=7, gt=0)

    # ─── Schema registry ───
    #: Of records in Confluent's wire format. None: there are none.
    schema_registry_url: str | None = Field(default=None, pattern=r"^https?://[^\s,]+$")
    schema_registry_ca_location: str | None = None
    #: The client's certificate and key (PEM files), if the registry requires one.
    schema_registry_certificate_location: str | None = None
    schema_registry_key_location: str | None = None
    schema_registry_key_password: SecretStr | None = None
    schema_registry_username: str | None = None
    schema_registry_password: SecretStr | None = None
    #: OAuth 2.0 client credentials: where tokens are issued, and for whom.
    schema_registry_token_url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    schema_registry_client_id: str | None = None
    schema_registry_client_secret: SecretStr | None = None
    schema_registry_scope: str = ""
    #: Confluent Cloud asks for both beside a token.
    schema_registry_logical_cluster: str = ""
    schema_registry_identity_pool: str | None = None

    # ─── AWS ───
    #: boto3 reads it too; here it serves MSK's tokens and ARNs.
    aws_default_region: str | None = None
    #: The MSK cluster, for the policies that "pipeline provision --iam" prints.
    msk_cluster_arn: str | None = Field(default=None, pattern=MSK_CLUSTER_ARN)

    #: The key of KMS that encrypts queues, table and bucket at rest, instead of those of their services.
    kms_key_arn: str | None = Field(default=None, pattern=KMS_KEY_ARN)

    # ─── SQS ───
    sqs_task_queue_url: str
    sqs_dlq_url: str
    use_sqs_task_processing: bool = True
    sqs_wait_time_seconds: int = Field(default=5, ge=0, le=20)
    sqs_lease_seconds: int = Field(default=30, ge=3, le=600)

    # ─── DynamoDB ───
    dynamodb_table: str = Field(default="pipeline-jobs", min_length=3)
    #: Write units a second that table and index must take at once; None: what AWS gives, 4,000 to a new one.
    dynamodb_warm_writes: int | None = Field(default=None, ge=4000)
    #: Partitions of the index that this process spreads jobs over; lists read all that were ever used.
    dynamodb_index_shards: int = Field(default=FEWEST_SHARDS, ge=FEWEST_SHARDS, le=MOST_SHARDS)
    #: The day (UTC) from whose beginning on all processes have this setting: jobs submitted since then are
    #: listed by entity through an index of their own, which costs a write unit a job. None: no such index.
    dynamodb_entity_index_since: date | None = None
    job_expiry_days: int = Field(default=45, ge=45)

    # ─── S3 ───
    #: The bucket of data that is too large for Kafka, SQS or DynamoDB. None: such data is refused.
    payload_bucket: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")

    # ─── Processing ───
    max_retries: int = Field(default=3, ge=0)
    retry_delay: float = Field(default=5, ge=0)
    task_time_limit: float = Field(default=300, gt=0, le=11 * 3600)
    #: Runs of async tasks that one loop child has at a time.
    async_concurrency: int = Field(default=100, ge=1, le=1000)
    #: The most parts of a split. One small event may ask a split for any number of them.
    max_parts: int = Field(default=100_000, ge=1)
    #: The longest rolling deployment: how long a task unknown to this worker waits for another one.
    unknown_task_seconds: float = Field(default=600, ge=0, le=24 * 3600)

    #: Whether the results of plain tasks are kept, unless a task says otherwise (``ignore_result``).
    results: bool = False
    #: Whether bridges fire Celery's beat_schedule; false: "celery beat" does.
    bridge_beat: bool = True

    # ─── Control plane ───
    #: How far back Flower and "celery events" read the log of task events when they start, in seconds and in
    #: records; the shorter of both applies. 0: no past events.
    events_history_seconds: float = Field(default=3600, ge=0)
    events_history_records: int = Field(default=100_000, ge=0)
    #: Tasks a second of a worker whose events it sends at most: above it, those of a share of its jobs. A
    #: hundred workers then send as many as Flower takes in.
    events_tasks_per_second: float = Field(default=100, ge=1, allow_inf_nan=False)
    #: Celery's commands that workers obey beside those that change nothing.
    control_commands: tuple[str, ...] = ()
    #: Signs commands: workers obey no other ones.
    control_key: SecretStr | None = Field(default=None, min_length=32)

    # ─── Running ───
    auto_provision: bool = True
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    health_host: str = "127.0.0.1"
    health_port: int | None = Field(default=None, ge=1, le=65535)
    web_token: SecretStr | None = None
    web_read_only: bool = False
    flower_url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    trace_url: str | None = Field(default=None, pattern=r"^https?://[^\s]*\{job_id\}[^\s]*$")
    sentry_dsn: SecretStr | None = None

    @field_validator("task_modules", "consumer_modules", "control_commands", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return tuple(name for name in re.split(r"[,\s]+", value) if name) if isinstance(value, str) else value

    @field_validator("kafka_oauth_token_url")
    @classmethod
    def _hides_the_secret(cls, value: str | None) -> str | None:
        if value is None or (re.match("https?://", value) and not _in_the_open(value)):
            return value
        raise ValueError(
            "the client secret and the tokens would cross the network unencrypted: use https:// (http:// is "
            "for this machine only), and KAFKA_OAUTH_CA_LOCATION for an authority of your own"
        )

    @field_validator("sqs_task_queue_url", "sqs_dlq_url")
    @classmethod
    def _fifo(cls, value: str) -> str:
        if not value.endswith(".fifo"):
            raise ValueError("not a FIFO queue: its name must end in .fifo")
        return value

    @model_validator(mode="after")
    def _two_queues(self) -> Self:
        if self.sqs_task_queue_url == self.sqs_dlq_url:
            raise ValueError("SQS_DLQ_URL is the task queue itself: dead letters need a queue of their own")
        return self

    @model_validator(mode="after")
    def _kafka_security(self) -> Self:
        if wrong := security_faults(self):
            raise ValueError("; ".join(wrong))
        return self

    @model_validator(mode="after")
    def _registry_security(self) -> Self:
        if wrong := registry_faults(self):
            raise ValueError("; ".join(wrong))
        return self

    @model_validator(mode="after")
    def _token_strength(self) -> Self:
        if self.health_port is not None and (fault := token_fault(self, self.health_host)):
            raise ValueError(fault)
        return self

    @property
    def brokers_are_here(self) -> bool:
        """Whether all brokers that are named are on this machine."""
        servers = (each.strip().rpartition("://")[2] for each in self.kafka_bootstrap_servers.split(","))
        return all(is_loopback(urlsplit(f"//{server}").hostname) for server in servers)

    @property
    def fires_beat(self) -> bool:
        """Whether bridges fire Celery's ``beat_schedule``: only where a worker runs its tasks."""
        return self.bridge_beat and self.use_sqs_task_processing

    @property
    def task_queue(self) -> str:
        """The name of the task queue, as in Celery's ``-Q`` and a stage's ``queue``."""
        return self.sqs_task_queue_url.rsplit("/", 1)[1]

    def queue_url(self, name: str) -> str:
        """Return the URL of a queue of this service's account and region.

        Celery's queue ``mails`` is the SQS queue ``mails.fifo``: SQS demands that ending of a FIFO queue.
        """
        if name == self.task_queue:  # also a standard queue, of which the checklist tells
            return self.sqs_task_queue_url
        folder = self.sqs_task_queue_url.rsplit("/", 1)[0]
        return f"{folder}/{name if name.endswith('.fifo') else name + '.fifo'}"

    @property
    def control_names(self) -> tuple[str, str, str]:
        """Logical topics of this service's Celery control plane: events, commands, replies."""
        control = f"{self.service_name}.control"
        return f"{control}.events", f"{control}.commands", f"{control}.replies"

    @property
    def control_topics(self) -> tuple[str, str, str]:
        """The Kafka topics of ``control_names``."""
        events, commands, replies = map(self.topic, self.control_names)
        return events, commands, replies

    def topic(self, name: str) -> str:
        """Return the Kafka topic of a logical name: ``KAFKA_TOPIC_<NAME>``, or its default."""
        defaults = {name: f"{self.service_name}-{name}" for name in (ERRORS_TOPIC, DLQ_TOPIC)}
        return self._mapped(name) or self.topic_prefix + defaults.get(name, name)

    def topic_of_others(self, name: str) -> str:
        """Return the Kafka topic that a consumer reads: ``KAFKA_TOPIC_<NAME>``, or the name as it is."""
        return self._mapped(name) or name

    def _mapped(self, name: str) -> str | None:
        return self.topics.get(topic_variable(name).removeprefix(TOPIC_VARIABLE))


def topic_variable(name: str) -> str:
    """Return the variable that names the Kafka topic of a logical name."""
    return TOPIC_VARIABLE + name.upper().replace("-", "_").replace(".", "_")


def token_fault(settings: Settings, host: str) -> str | None:
    """Return why WEB_TOKEN must not guard a server on ``host``; None if it may, or is not set.

    On loopback any token may: those who could guess there are on this machine.
    """
    token = settings.web_token.get_secret_value() if settings.web_token else None
    if token is None or is_loopback(host):
        return None
    if len(token) >= TOKEN_LENGTH and len(set(token)) >= TOKEN_VARIETY:
        return None
    return (
        f"WEB_TOKEN can be guessed, and others reach {host}: use {TOKEN_LENGTH} random characters or more, "
        "for example those of: python -c 'import secrets; print(secrets.token_urlsafe())'"
    )


def security_faults(settings: Settings) -> list[str]:
    """Return the contradictions in the settings of Kafka's security, a sentence each, with the mend.

    Each would otherwise be a client that connects to nothing, or with less security than intended.
    """
    protocol = settings.kafka_security_protocol
    certificate, key = settings.ssl_certificate_location, settings.ssl_key_location
    rules = {
        **_login_rules(settings),
        "SSL_CERTIFICATE_LOCATION and SSL_KEY_LOCATION need each other": bool(certificate) != bool(key),
        "SSL_KEY_PASSWORD needs SSL_KEY_LOCATION": settings.ssl_key_password and not key,
        "SSL_CERTIFICATE_LOCATION and SSL_KEY_LOCATION need KAFKA_SECURITY_PROTOCOL=SSL or SASL_SSL, it is "
        "PLAINTEXT": protocol == "PLAINTEXT" and (certificate or key),
    }
    return [sentence for sentence, broken in rules.items() if broken]


def _login_rules(settings: Settings) -> dict[str, object]:
    """Return each rule about the login to the brokers, and whether the settings break it."""
    protocol, mechanism = settings.kafka_security_protocol, settings.kafka_sasl_mechanism
    user, password = settings.kafka_sasl_username, settings.kafka_sasl_password
    names = [name for name in Settings.model_fields if name.startswith("kafka_oauth_")]
    oauth = [name.upper() for name in names if getattr(settings, name)]
    needed = [f"KAFKA_OAUTH_{name}" for name in ("TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET")]
    others = {
        "AWS_MSK_IAM": "the role of the process is who it is",
        "OAUTHBEARER": "KAFKA_OAUTH_CLIENT_ID and KAFKA_OAUTH_CLIENT_SECRET are who it is",
    }
    return {
        "KAFKA_SECURITY_PROTOCOL=SASL_SSL needs KAFKA_SASL_MECHANISM: "
        f"{', '.join(get_args(SaslMechanism))}": protocol == "SASL_SSL" and not mechanism,
        f"KAFKA_SASL_* and KAFKA_OAUTH_* need KAFKA_SECURITY_PROTOCOL=SASL_SSL, it is {protocol}": (
            protocol != "SASL_SSL" and (mechanism or user or password or oauth)
        ),
        f"KAFKA_SASL_MECHANISM={mechanism} needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD": (
            mechanism in PASSWORD_MECHANISMS and not (user and password)
        ),
        f"KAFKA_SASL_MECHANISM={mechanism} takes no KAFKA_SASL_USERNAME or KAFKA_SASL_PASSWORD: "
        f"{others.get(mechanism or '')}": mechanism in others and (user or password),
        f"KAFKA_SASL_MECHANISM=OAUTHBEARER needs {', '.join(needed)}": (
            mechanism == "OAUTHBEARER" and not {*needed} <= {*oauth}
        ),
        f"{', '.join(oauth)} with KAFKA_SASL_MECHANISM={mechanism}: they are for OAUTHBEARER": (
            oauth and mechanism not in (None, "OAUTHBEARER")
        ),
    }


def registry_faults(settings: Settings) -> list[str]:
    """Return the contradictions in the settings of the schema registry, a sentence each, with the mend."""
    url, token_url = settings.schema_registry_url, settings.schema_registry_token_url
    user, password = settings.schema_registry_username, settings.schema_registry_password
    client, secret = settings.schema_registry_client_id, settings.schema_registry_client_secret
    certificate, key = settings.schema_registry_certificate_location, settings.schema_registry_key_location
    others = user or password or token_url or client or secret or certificate or key
    rules = {
        "SCHEMA_REGISTRY_* need SCHEMA_REGISTRY_URL": others and not url,
        "SCHEMA_REGISTRY_URL has a user in it, and a URL is logged: use SCHEMA_REGISTRY_USERNAME and "
        "SCHEMA_REGISTRY_PASSWORD": url and urlsplit(url).username is not None,
        "SCHEMA_REGISTRY_USERNAME and SCHEMA_REGISTRY_PASSWORD need each other": bool(user) != bool(password),
        "SCHEMA_REGISTRY_TOKEN_URL, SCHEMA_REGISTRY_CLIENT_ID and SCHEMA_REGISTRY_CLIENT_SECRET need each "
        "other": len({bool(token_url), bool(client), bool(secret)}) > 1,
        "SCHEMA_REGISTRY_USERNAME or SCHEMA_REGISTRY_TOKEN_URL, not both": user and token_url,
        "SCHEMA_REGISTRY_CERTIFICATE_LOCATION and SCHEMA_REGISTRY_KEY_LOCATION need each other": bool(
            certificate
        )
        != bool(key),
        "SCHEMA_REGISTRY_KEY_PASSWORD needs SCHEMA_REGISTRY_KEY_LOCATION": (
            settings.schema_registry_key_password and not key
        ),
        "A secret would cross the network unencrypted: use https:// in SCHEMA_REGISTRY_URL and "
        "SCHEMA_REGISTRY_TOKEN_URL (http:// is for this machine only)": (user or token_url)
        and any(map(_in_the_open, (url, token_url))),
    }
    return [sentence for sentence, broken in rules.items() if broken]


def _in_the_open(url: str | None) -> bool:
    return url is not None and url.startswith("http://") and not is_loopback(urlsplit(url).hostname)


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the settings from ``environ``; raise one ``ConfigurationError`` that lists every fault."""
    values: dict[str, Any] = {
        name: environ[name.upper()] for name in Settings.model_fields if environ.get(name.upper(), "") != ""
    }
    values["topics"] = {
        name.removeprefix(TOPIC_VARIABLE): value
        for name, value in environ.items()
        if name.startswith(TOPIC_VARIABLE) and value
    }
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, values)) from error


def _explain(error: ValidationError, values: Mapping[str, Any]) -> str:
    missing = [str(e["loc"][0]).upper() for e in error.errors() if e["type"] == "missing"]
    wrong = [_describe(e, values) for e in error.errors() if e["type"] != "missing"]
    lines = []
    if missing:
        lines.append(f"Not set in the environment: {', '.join(missing)}.")
    if wrong:
        lines.append("Wrong in the environment: " + "; ".join(wrong) + ".")
    lines.append('config/example.env explains each; "pipeline stack env" prints a set that works locally.')
    return "\n".join(lines)


def _describe(error: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Describe a wrong setting with its value, unless that is a secret, also one in the wrong variable."""
    why = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return why
    name = str(error["loc"][0])
    value = str(values.get(name, ""))
    secrets = {values[each] for each in _secret_names() if each in values}
    shown = "" if name in _secret_names() or value in secrets else f"={value[:VALUE_SHOWN]}"
    return f"{name.upper()}{shown}: {why}"


def _secret_names() -> set[str]:
    return {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
