"""The schemas of a service's topics, compared with those that the registry has, and registered."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from pipeline.author.registry import Registry
from pipeline.author.topicschema import Format, TopicSchema
from pipeline.errors import ConfigurationError, ServiceRefusedError
from pipeline.registry import SchemaRegistry, registry_schema, subject_of
from pipeline.settings import Settings

#: "registered": the registry has it. "new": it may be registered, as the first or the next version.
#: "incompatible": the registry's rule for the subject forbids it.
State = Literal["registered", "new", "incompatible"]

#: The mend of a schema that may not follow the versions before it.
MEND = (
    "Make the change compatible (a new field has a default, a field keeps its name and type), or emit to "
    "another topic."
)


@dataclass(frozen=True, kw_only=True)
class SchemaReport:
    """How the schema of a topic is in the registry."""

    #: Logical name.
    topic: str
    subject: str
    format: Format
    state: State
    #: Of the registered schema; of another state those of the subject's newest one, None where it has none.
    id: int | None
    version: int | None
    #: Why it is incompatible, in the registry's words; empty otherwise.
    reason: str = ""


def schema_reports(settings: Settings, registry: Registry) -> list[SchemaReport]:
    """Compare the schema of each topic that has one; register nothing.

    Raises ConfigurationError without SCHEMA_REGISTRY_URL, ServiceError where the registry does not answer.
    """
    schemas = registry.topic_schemas
    if not schemas:
        return []
    with closing(_client(settings, registry)) as client:
        return [_report(client, settings, topic, schema) for topic, schema in schemas.items()]


def register_schemas(settings: Settings, registry: Registry) -> Iterator[tuple[str, bool]]:
    """Register the schemas that are not registered; yield each subject, and whether that was so.

    Raises as ``schema_reports``, and ServiceRefusedError, naming the mend, for one that is incompatible.
    """
    schemas = registry.topic_schemas
    if not schemas:
        return
    with closing(_client(settings, registry)) as client:
        for topic, schema in schemas.items():
            report = _report(client, settings, topic, schema)
            if report.state == "incompatible":
                raise ServiceRefusedError(
                    f"{report.subject}: the schema of {topic} is not compatible with its versions: "
                    f"{report.reason}. {MEND}"
                )
            if report.state == "new":
                client.register(report.subject, registry_schema(schema))
            yield report.subject, report.state == "new"


def check_schemas(settings: Settings, registry: Registry) -> None:
    """Raise ConfigurationError if a schema that this process writes by is not registered."""
    for report in schema_reports(settings, registry):
        if report.state == "new":
            raise ConfigurationError(
                f"The schema registry does not have the schema of {report.topic} under {report.subject}. "
                'Run "pipeline provision".'
            )
        if report.state == "incompatible":
            raise ConfigurationError(
                f"The schema of {report.topic} is not compatible with the versions of {report.subject}: "
                f"{report.reason}. {MEND}"
            )


def _client(settings: Settings, registry: Registry) -> SchemaRegistry:
    if not settings.schema_registry_url:
        stage = next(each for each in registry.by_name.values() if each.format != "json")
        raise ConfigurationError(
            f"{stage.where}: it emits {stage.emits!r} as {stage.format}, and SCHEMA_REGISTRY_URL is not set. "
            "Set it, or leave format= out."
        )
    return SchemaRegistry(settings)


def _report(client: SchemaRegistry, settings: Settings, topic: str, schema: TopicSchema) -> SchemaReport:
    subject, wanted = subject_of(settings.topic(topic)), registry_schema(schema)
    found = client.find(subject, wanted)
    reason = None if found else client.misfit(subject, wanted)
    newest = None if found else client.latest(subject)
    return SchemaReport(
        topic=topic,
        subject=subject,
        format=schema.format,
        state="registered" if found else "new" if reason is None else "incompatible",
        id=found[0] if found else newest[0] if newest else None,
        version=found[1] if found else newest[1] if newest else None,
        reason=reason or "",
    )
