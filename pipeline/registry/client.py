"""The client of a schema registry, and what its answers mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from pipeline.errors import (
    ConfigurationError,
    MessageRefusedError,
    ServiceError,
    ServiceRefusedError,
    ServiceUnavailableError,
)
from pipeline.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import Schema as VendorSchema
    from confluent_kafka.schema_registry import SchemaRegistryClient

#: The three that the API names.
SchemaKind = Literal["AVRO", "PROTOBUF", "JSON"]
_KINDS: tuple[SchemaKind, ...] = ("AVRO", "PROTOBUF", "JSON")

#: Seconds for the registry to answer one request.
ANSWER_TIMEOUT = 10.0

#: The most schemas that one refers to, directly or not, and characters of all of them: far above any in use.
MAX_REFERENCES, MAX_TEXT = 200, 2_000_000

#: The API's error codes for what is not there. Any other 404 is of a URL that is no registry's.
_MISSING = _NO_SUBJECT, _NO_VERSION, _NO_SCHEMA = 40401, 40402, 40403


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A schema that another one refers to."""

    #: As the schema that refers to it names it: an Avro type, or a Protobuf file.
    name: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """A schema as a registry has it."""

    kind: SchemaKind
    #: Avro and JSON Schema: JSON. Protobuf: the text of a file, or its descriptor in base64.
    text: str
    #: All that it needs, each after those that it needs itself.
    references: tuple[Reference, ...] = ()


class SchemaRegistry:
    """The registry of SCHEMA_REGISTRY_URL. Threads share it. It caches nothing and tries once.

    Raises ServiceUnavailableError where asking again may help, ServiceRefusedError for an answer that
    settings or rights must change, MessageRefusedError for a schema that cannot be had.
    """

    def __init__(self, settings: Settings, timeout: float = ANSWER_TIMEOUT) -> None:
        """``timeout``: seconds for one answer.

        Raises ConfigurationError without the URL, the extra, or a usable certificate file.
        """
        self._url = settings.schema_registry_url or ""
        self._client = _make_client(settings, timeout)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def schema(self, schema_id: int) -> Schema | None:
        """Return the schema of an id, with all that it refers to; None if the registry has none."""
        with self._asking(f"the schema {schema_id}", missing=(_NO_SCHEMA,)) as answer:
            found = self._vendor(self._client.get_schema(schema_id))
            if found.schema_type == "PROTOBUF":
                # As a descriptor, where the registry can (Confluent's): else it is the text once more.
                found = self._vendor(self._client.get_schema(schema_id, fmt="serialized"))
            answer.append(self._with_references(found))
        return answer[0] if answer else None

    def find(self, subject: str, schema: Schema) -> tuple[int, int] | None:
        """Return id and version of a schema without references under a subject; None if it is not there."""
        with self._asking(f"an id of {subject}", missing=(_NO_SUBJECT, _NO_SCHEMA)) as answer:
            found = self._client.lookup_schema(subject, _theirs(schema))
            answer.append((found.schema_id, found.version))
            self._client.clear_caches()
        return answer[0] if answer else None

    def latest(self, subject: str) -> tuple[int, int, Schema] | None:
        """Return id, version and schema of a subject's newest version; None for an unknown subject."""
        with self._asking(f"the latest schema of {subject}", missing=(_NO_SUBJECT, _NO_VERSION)) as answer:
            self._client.clear_caches()
            found = self._client.get_latest_version(subject)
            answer.append((found.schema_id, found.version, self._with_references(found.schema)))
        return answer[0] if answer else None

    def register(self, subject: str, schema: Schema) -> int:
        """Return the id of a schema without references under a subject; register it if it is not there.

        Raises ServiceRefusedError if it is not compatible with the versions before it.
        """
        with self._asking(f"the registration of {subject}") as answer:
            answer.append(self._client.register_schema(subject, _theirs(schema)))
            self._client.clear_caches()
        return int(answer[0])

    def misfit(self, subject: str, schema: Schema) -> str | None:
        """Return why a schema without references may not be the next version, in the registry's words.

        None if it may, also for an unknown subject. The subject's compatibility level says which versions it
        is compared with.
        """
        path = f"compatibility/subjects/{quote(subject, safe='')}/versions?verbose=true"
        with self._asking(f"the compatibility of {subject}", missing=(_NO_SUBJECT, _NO_VERSION)) as answer:
            # The client's own test_compatibility_all_versions drops the reasons (confluent-kafka 2.16).
            answer.append(self._client._rest_client.post(path, body=_theirs(schema).to_dict()))
        if not answer or answer[0]["is_compatible"]:
            return None
        # Confluent's registry has messages, Apicurio's a reason.
        reasons = answer[0].get("messages") or [answer[0].get("reason") or "the registry gives no reason"]
        return "; ".join(map(str, reasons))

    def ping(self) -> None:
        """Ask for something small; return if it answers."""
        with self._asking("the kinds of schemas") as answer:
            answer.append(self._client.get_schema_types())

    def _vendor(self, schema: "VendorSchema") -> "VendorSchema":
        # The client keeps what it gets, without a bound and whatever format was asked for.
        self._client.clear_caches()
        return schema

    def _with_references(self, schema: "VendorSchema") -> Schema:
        """Return a schema with all that it refers to, asked for one by one."""
        kind = schema.schema_type or "AVRO"
        if kind not in _KINDS:
            raise MessageRefusedError(f"the schema is of the unknown type {kind!r}")
        found: dict[str, Reference] = {}
        self._collect(schema, found, set())
        text = schema.schema_str or ""
        if sum(len(each.text) for each in found.values()) + len(text) > MAX_TEXT:
            raise MessageRefusedError(f"the schema has more than {MAX_TEXT:,} characters")
        return Schema(kind=kind, text=text, references=tuple(found.values()))

    def _collect(self, schema: "VendorSchema", found: dict[str, Reference], seen: set[str]) -> None:
        for each in schema.references or ():
            name, subject, version = each.name, each.subject, each.version
            if name is None or subject is None or version is None or name in seen:
                continue
            seen.add(name)
            if len(seen) > MAX_REFERENCES:
                raise MessageRefusedError(f"the schema refers to more than {MAX_REFERENCES} others")
            form = "serialized" if schema.schema_type == "PROTOBUF" else None
            answer = self._client.get_version(subject, version, True, form)
            self._client.clear_caches()
            self._collect(answer.schema, found, seen)
            found[name] = Reference(name=name, text=answer.schema.schema_str or "")

    @contextmanager
    def _asking(self, what: str, missing: tuple[int, ...] = ()) -> Iterator[list[Any]]:
        """Convert the vendor's errors; leave the list empty where the registry answers that it is missing."""
        from confluent_kafka.schema_registry.error import OAuthTokenError, SchemaRegistryError

        answer: list[Any] = []
        try:
            yield answer
        except ServiceError:
            raise
        except SchemaRegistryError as error:
            if error.http_status_code == 404 and error.error_code in missing:
                return
            if error.http_status_code == 404 and error.error_code in _MISSING:
                raise MessageRefusedError(
                    f"{what} refers to what {self._url} does not have: {error}"
                ) from error
            raise _answer_error(self._url, what, error.http_status_code, str(error)) from error
        except OAuthTokenError as error:
            raise ServiceUnavailableError(
                f"No token for {self._url}: {error} (SCHEMA_REGISTRY_TOKEN_URL, SCHEMA_REGISTRY_CLIENT_ID "
                "and SCHEMA_REGISTRY_CLIENT_SECRET; an authority of your own in SSL_CERT_FILE)"
            ) from error
        except Exception as error:
            # Of the HTTP client: no connection, no answer in time, or one that is no registry's.
            raise ServiceUnavailableError(
                f"{self._url} did not give {what}: {type(error).__name__}: {error} (is it the registry, and "
                "SCHEMA_REGISTRY_URL right? With https:// also SCHEMA_REGISTRY_CA_LOCATION and "
                "SCHEMA_REGISTRY_CERTIFICATE_LOCATION)"
            ) from error


def _make_client(settings: Settings, timeout: float) -> "SchemaRegistryClient":
    if not settings.schema_registry_url:
        raise ConfigurationError("SCHEMA_REGISTRY_URL is not set: the schema registry of the records.")
    try:
        from confluent_kafka.schema_registry import SchemaRegistryClient
    except ImportError as error:
        raise ConfigurationError(
            "SCHEMA_REGISTRY_URL needs the client of schema registries: pip install 'celery-stages[schemas]'."
        ) from error
    try:
        return SchemaRegistryClient(client_configuration(settings) | {"timeout": timeout})
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"No client for SCHEMA_REGISTRY_URL={settings.schema_registry_url}: {error}. Correct "
            "SCHEMA_REGISTRY_CA_LOCATION, SCHEMA_REGISTRY_CERTIFICATE_LOCATION, SCHEMA_REGISTRY_KEY_LOCATION "
            "or SCHEMA_REGISTRY_KEY_PASSWORD."
        ) from error


def client_configuration(settings: Settings) -> dict[str, Any]:
    """Return the properties of Confluent's registry client."""
    username, password = settings.schema_registry_username, settings.schema_registry_password
    key_password, secret = settings.schema_registry_key_password, settings.schema_registry_client_secret
    configuration: dict[str, Any] = {
        "url": settings.schema_registry_url,
        "ssl.ca.location": settings.schema_registry_ca_location,
        "ssl.certificate.location": settings.schema_registry_certificate_location,
        "ssl.key.location": settings.schema_registry_key_location,
        "ssl.key.password": key_password.get_secret_value() if key_password else None,
        "basic.auth.user.info": f"{username}:{password.get_secret_value()}" if password else None,
        # The callers wait, and are told why.
        "max.retries": 0,
    }
    if secret:
        configuration |= {
            "bearer.auth.credentials.source": "OAUTHBEARER",
            "bearer.auth.issuer.endpoint.url": settings.schema_registry_token_url,
            "bearer.auth.client.id": settings.schema_registry_client_id,
            "bearer.auth.client.secret": secret.get_secret_value(),
            "bearer.auth.scope": settings.schema_registry_scope,
            "bearer.auth.logical.cluster": settings.schema_registry_logical_cluster,
            "bearer.auth.identity.pool.id": settings.schema_registry_identity_pool,
        }
    return {name: value for name, value in configuration.items() if value is not None}


def _answer_error(url: str, what: str, status: int, text: str) -> ServiceError:
    if status in (401, 403):
        return ServiceRefusedError(
            f"{url} refused {what}: {text} (correct SCHEMA_REGISTRY_USERNAME and SCHEMA_REGISTRY_PASSWORD, "
            "the OAuth client or the client's certificate, or its rights)"
        )
    if status == 404:
        return ServiceRefusedError(
            f"{url} has no API of a schema registry: {text[:200]} (correct SCHEMA_REGISTRY_URL; Apicurio's "
            "ends in /apis/ccompat/v7)"
        )
    if status in (408, 429) or status >= 500:
        return ServiceUnavailableError(f"{url} did not give {what}: {text[:500]}")
    return ServiceRefusedError(f"{url} refused {what}: {text[:500]}")


def _theirs(schema: Schema) -> "VendorSchema":
    from confluent_kafka.schema_registry import Schema as VendorSchema

    return VendorSchema(schema.text, schema.kind)
