"""Settings: read once, refused in one message, and every variable explained."""

import re
import traceback
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.settings import Settings, load_settings
from pipeline.vault.settings import VaultSettings

REQUIRED = {
    "SERVICE_NAME": "orders",
    "KAFKA_BOOTSTRAP_SERVERS": "broker:9092",
    "KAFKA_CONSUMER_GROUP": "orders",
    "SQS_TASK_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/1/orders.fifo",
    "SQS_DLQ_URL": "https://sqs.eu-west-1.amazonaws.com/1/orders-dlq.fifo",
}
EXAMPLE = Path(__file__).parents[2] / "config" / "example.env"


def test_one_error_lists_all_that_is_missing() -> None:
    """A first start with nothing set tells every variable it needs, at once."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings({})
    assert all(name in str(caught.value) for name in REQUIRED)


def test_wrong_values_name_the_variable() -> None:
    """A value that cannot be used is named with its variable, beside what is missing."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"MAX_RETRIES": "many", "SQS_LEASE_SECONDS": "1", "LOG_LEVEL": "LOUD"})
    assert "MAX_RETRIES=many: " in str(caught.value)
    assert "SQS_LEASE_SECONDS=1: " in str(caught.value)
    assert "LOG_LEVEL=LOUD: " in str(caught.value)
    assert "SERVICE_NAME" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SQS_TASK_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/1/orders"),
        ("SQS_DLQ_URL", REQUIRED["SQS_TASK_QUEUE_URL"]),
        ("SERVICE_NAME", "two words"),
        ("TASK_TIME_LIMIT", "50000"),
        ("JOB_EXPIRY_DAYS", "7"),
    ],
)
def test_settings_that_would_lose_tasks_are_refused(name: str, value: str) -> None:
    """A standard queue, a DLQ that is the queue itself, a limit SQS cannot hold: refused at start."""
    with pytest.raises(ConfigurationError):
        load_settings({**REQUIRED, name: value})


def test_an_empty_variable_is_as_good_as_none() -> None:
    """Compose files and shells set empty strings; they mean the default."""
    assert load_settings({**REQUIRED, "MAX_RETRIES": ""}).max_retries == 3


def test_topics_take_their_variable_or_the_prefix() -> None:
    """A topic is what its variable says, else the prefix and its name."""
    settings = load_settings(
        {**REQUIRED, "TOPIC_PREFIX": "eu-", "KAFKA_TOPIC_ORDER_PAID": "payments", "KAFKA_TOPIC_DLQ": "dead"}
    )
    assert settings.topic("order-paid") == "payments"
    assert settings.topic("order-sent") == "eu-order-sent"
    assert settings.topic("errors") == "eu-orders-errors"
    assert settings.topic("dlq") == "dead"


def test_a_queues_name_in_celery_needs_no_ending() -> None:
    """SQS demands one of a FIFO queue: ``mails`` is ``mails.fifo``, of the task queue's account."""
    settings = load_settings({**REQUIRED, "SQS_TASK_QUEUE_URL": "https://sqs/1/tasks.fifo"})
    assert settings.queue_url("mails") == settings.queue_url("mails.fifo") == "https://sqs/1/mails.fifo"


def test_task_modules_are_a_list() -> None:
    """Several packages of stages can be loaded."""
    assert load_settings({**REQUIRED, "TASK_MODULES": "a, b.c"}).task_modules == ("a", "b.c")


def test_the_example_explains_every_variable_with_its_default() -> None:
    """config/example.env names each setting there is, and says its true default."""
    text = EXAMPLE.read_text()
    shown = dict(re.findall(r"^#? ?([A-Z_]+)=(.*)$", text, re.MULTILINE))
    for name, field in {**Settings.model_fields, **VaultSettings.model_fields}.items():
        if name == "topics":
            continue
        variable = name.upper()
        assert variable in shown, f"{variable} is missing in {EXAMPLE.name}"
        if field.is_required() or field.default in (None, ""):
            continue
        default = field.default
        expected = ",".join(default) if isinstance(default, tuple) else str(default)
        said = shown[variable]
        assert said.lower() == expected.lower() or float(said) == float(expected), variable


SCRAM = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA_SASL_USERNAME": "alice",
    "KAFKA_SASL_PASSWORD": "hunter2",
}
TOKENS = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
    "KAFKA_OAUTH_TOKEN_URL": "https://login.example.org/token",
    "KAFKA_OAUTH_CLIENT_ID": "orders",
    "KAFKA_OAUTH_CLIENT_SECRET": "hunter2",
}
#: A provider on this machine needs no TLS.
LOCAL = {"KAFKA_OAUTH_TOKEN_URL": "http://127.0.0.1:8080/token"}
CERTIFICATE = {"SSL_CERTIFICATE_LOCATION": "client.pem", "SSL_KEY_LOCATION": "client.key"}


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "KAFKA_SASL_MECHANISM"),
        (SCRAM | {"KAFKA_SECURITY_PROTOCOL": "SSL"}, "KAFKA_SECURITY_PROTOCOL=SASL_SSL, it is SSL"),
        ({"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT", "KAFKA_SASL_USERNAME": "a"}, "it is PLAINTEXT"),
        (SCRAM | {"KAFKA_SASL_PASSWORD": ""}, "needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"),
        (SCRAM | {"KAFKA_SASL_MECHANISM": "AWS_MSK_IAM"}, "takes no KAFKA_SASL_USERNAME"),
        (SCRAM | {"KAFKA_SASL_MECHANISM": "GSSAPI"}, "SCRAM-SHA-512"),
        (
            SCRAM | {"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": ""},
            "PLAIN needs KAFKA_SASL_USERN",
        ),
        (TOKENS | {"KAFKA_OAUTH_CLIENT_ID": ""}, "needs KAFKA_OAUTH_TOKEN_URL, KAFKA_OAUTH_CLIENT_ID"),
        (TOKENS | {"KAFKA_SASL_PASSWORD": "hunter2"}, "OAUTHBEARER takes no KAFKA_SASL_USERNAME"),
        (
            TOKENS | {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SASL_MECHANISM": ""},
            "need KAFKA_SECURITY_PROTOCOL",
        ),
        (TOKENS | {"KAFKA_OAUTH_TOKEN_URL": "http://login.example.org/token"}, "use https://"),
        (TOKENS | {"KAFKA_OAUTH_TOKEN_URL": "ftp://127.0.0.1/token"}, "use https://"),
        (TOKENS | {"KAFKA_OAUTH_EXTENSIONS": "logicalCluster"}, "KAFKA_OAUTH_EXTENSIONS=logicalCluster"),
        (SCRAM | {"KAFKA_OAUTH_SCOPE": "kafka"}, "KAFKA_OAUTH_SCOPE with KAFKA_SASL_MECHANISM=SCRAM-SHA-512"),
        ({"SSL_CERTIFICATE_LOCATION": "client.pem"}, "SSL_KEY_LOCATION need each other"),
        ({"SSL_KEY_PASSWORD": "hunter2"}, "SSL_KEY_PASSWORD needs SSL_KEY_LOCATION"),
        (CERTIFICATE | {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}, "SSL or SASL_SSL, it is PLAINTEXT"),
    ],
)
def test_security_that_does_not_fit_together_is_refused(variables: dict[str, str], named: str) -> None:
    """Half a login, a login without TLS, a certificate without its key: refused, with what is missing."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings({**REQUIRED, **variables})
    assert named in str(caught.value)


REGISTRY = {"SCHEMA_REGISTRY_URL": "https://registry.example.org"}
BASIC = REGISTRY | {"SCHEMA_REGISTRY_USERNAME": "alice", "SCHEMA_REGISTRY_PASSWORD": "hunter2"}
OAUTH = REGISTRY | {
    "SCHEMA_REGISTRY_TOKEN_URL": "https://login.example.org/token",
    "SCHEMA_REGISTRY_CLIENT_ID": "alice",
    "SCHEMA_REGISTRY_CLIENT_SECRET": "hunter2",
}
REGISTRY_CERTIFICATE = REGISTRY | {
    "SCHEMA_REGISTRY_CERTIFICATE_LOCATION": "client.pem",
    "SCHEMA_REGISTRY_KEY_LOCATION": "client.key",
}


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        (BASIC | {"SCHEMA_REGISTRY_URL": ""}, "need SCHEMA_REGISTRY_URL"),
        ({"SCHEMA_REGISTRY_URL": "https://alice:hunter2@registry.example.org"}, "has a user in it"),
        ({"SCHEMA_REGISTRY_URL": "registry.example.org"}, "SCHEMA_REGISTRY_URL=registry"),
        (BASIC | {"SCHEMA_REGISTRY_PASSWORD": ""}, "need each other"),
        (OAUTH | {"SCHEMA_REGISTRY_CLIENT_SECRET": ""}, "need each other"),
        (OAUTH | BASIC, "not both"),
        (REGISTRY_CERTIFICATE | {"SCHEMA_REGISTRY_KEY_LOCATION": ""}, "need each other"),
        (REGISTRY | {"SCHEMA_REGISTRY_KEY_PASSWORD": "x"}, "needs SCHEMA_REGISTRY_KEY_LOCATION"),
        (BASIC | {"SCHEMA_REGISTRY_URL": "http://registry.example.org"}, "unencrypted"),
        (OAUTH | {"SCHEMA_REGISTRY_TOKEN_URL": "http://login.example.org"}, "unencrypted"),
    ],
)
def test_a_registry_whose_security_does_not_fit_is_refused(variables: dict[str, str], named: str) -> None:
    """Half a login, two of them, or one that would cross the network unencrypted: refused with the mend."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings({**REQUIRED, **variables})
    assert named in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "variables", [REGISTRY, BASIC, OAUTH, REGISTRY_CERTIFICATE, OAUTH | REGISTRY_CERTIFICATE]
)
def test_a_registry_whose_security_fits_is_taken(variables: dict[str, str]) -> None:
    """Without a login, with a password, with a token, with a certificate, with two of them."""
    load_settings({**REQUIRED, **variables})


@pytest.mark.parametrize("variables", [{}, SCRAM, CERTIFICATE, SCRAM | CERTIFICATE, TOKENS, TOKENS | LOCAL])
def test_security_that_fits_together_is_taken(variables: dict[str, str]) -> None:
    """TLS alone, a password over it, a client certificate, or both."""
    load_settings({**REQUIRED, **variables})


def test_a_secret_is_never_shown() -> None:
    """Neither the settings nor an error about them, with all it was caused by, hold a password."""
    secret = SCRAM["KAFKA_SASL_PASSWORD"]
    assert secret not in repr(load_settings({**REQUIRED, **SCRAM}))
    for wrong in ({"MAX_RETRIES": secret}, {"KAFKA_SECURITY_PROTOCOL": "SSL"}):
        with pytest.raises(ConfigurationError) as caught:
            load_settings({**REQUIRED, **SCRAM, **wrong})
        assert secret not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("token", "host", "port", "goes"),
    [
        ("sesame", "0.0.0.0", "8080", False),  # noqa: S104
        ("sesame", "10.0.0.7", "8080", False),
        ("aaaaaaaaaaaaaaaaaaaaaaaa", "::", "8080", False),
        ("sesame", "127.0.0.1", "8080", True),
        ("sesame", "0.0.0.0", "", True),  # noqa: S104
        ("", "0.0.0.0", "8080", True),  # noqa: S104
        ("kR3v_9xQz-Lw2TbY", "0.0.0.0", "8080", True),  # noqa: S104
    ],
)
def test_a_token_that_can_be_guessed_is_refused_where_others_can_try(
    token: str, host: str, port: str, goes: bool
) -> None:
    """The error names the setting and a better one; the token is not in it."""
    environment = {**REQUIRED, "WEB_TOKEN": token, "HEALTH_HOST": host, "HEALTH_PORT": port}
    if goes:
        assert load_settings(environment).health_host == host
        return
    with pytest.raises(
        ConfigurationError, match=r"WEB_TOKEN can be guessed.*secrets\.token_urlsafe"
    ) as caught:
        load_settings(environment)
    assert token not in str(caught.value)
