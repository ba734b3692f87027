"""``pipeline schemas``: the schemas of topics, their compatibility, and the AsyncAPI document."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from pipeline.cli.output import REMARKS, echo, print_json
from pipeline.cli.service import read_settings, read_stages
from pipeline.errors import ConfigurationError, ServiceError
from pipeline.infra.asyncapi import asyncapi
from pipeline.infra.topicschemas import MEND, SchemaReport, schema_reports

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for each topic.")


@click.group(
    epilog="""\b
Examples:
  pipeline schemas list
  pipeline schemas check                 in CI, before a deployment
  pipeline schemas export asyncapi --output asyncapi.json

"pipeline provision" registers schemas; no other command or process does."""
)
def schemas() -> None:
    """Show, check and export the schemas of this service's topics."""


@schemas.command(
    "list",
    short_help="List topics with their formats, subjects, ids and versions.",
    epilog="""\b
Examples:
  pipeline schemas list
  pipeline schemas list --json | jq -r 'select(.state == "new").subject'""",
)
@_json
def list_schemas(as_json: bool) -> None:
    """List the topics with a schema: format, subject, id, version and state in the registry.

    registered: the registry has it. new: "pipeline provision" will register it. incompatible: the registry
    would refuse it. Id and version are those of the newest one where it is not registered.
    """
    settings = read_settings()
    registry = read_stages(settings)
    reports = schema_reports(settings, registry)
    for report in reports:
        _print(report, as_json)
    if not reports and not as_json:
        REMARKS.print('No topic has a schema. A stage has one with format="avro" or format="json-schema".')


@schemas.command(
    short_help="Check that schemas are compatible; for CI.",
    epilog="""\b
Examples:
  pipeline schemas check
  pipeline schemas check --json | jq -r 'select(.state == "incompatible").reason'

Exit code 0: each is registered, or may be. 1: one is incompatible. 2: wrong settings or stages, or the
registry did not answer. Nothing is registered.""",
)
@_json
def check(as_json: bool) -> None:
    """Check that the schemas of the topics may follow those that the registry has.

    The rule is that of the registry for each subject (BACKWARD, unless a person set another one).
    """
    settings = read_settings()
    registry = read_stages(settings)
    try:
        reports = schema_reports(settings, registry)
    except ServiceError as error:
        # In CI "unknown" is not "incompatible".
        raise ConfigurationError(str(error)) from error
    for report in reports:
        _print(report, as_json)
    if any(report.state == "incompatible" for report in reports):
        if not as_json:
            REMARKS.print(MEND)
        sys.exit(1)


@schemas.group(
    epilog="""\b
Examples:
  pipeline schemas export asyncapi
  pipeline schemas export asyncapi --output asyncapi.json"""
)
def export() -> None:
    """Write the contract of this service for other tools."""


@export.command(
    "asyncapi",
    short_help="Write the AsyncAPI document of all topics.",
    epilog="""\b
Examples:
  pipeline schemas export asyncapi
  pipeline schemas export asyncapi --output asyncapi.json

It is JSON, which tools for AsyncAPI read as they do YAML. No service is asked.""",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file instead of standard output.",
)
def export_asyncapi(output: Path | None) -> None:
    """Write the AsyncAPI 3.0 document of this service: topics, stages, headers and data of events."""
    settings = read_settings()
    document = asyncapi(settings, read_stages(settings))
    if output is None:
        print_json(document, indent=2)
    else:
        output.write_text(json.dumps(document, indent=2) + "\n")


def _print(report: SchemaReport, as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    numbers = f"id {report.id}, version {report.version}" if report.id is not None else "no version yet"
    echo(f"{report.state:<12}  {report.format:<11}  {report.topic}  {report.subject} ({numbers})")
    if report.reason:
        echo(f"{'':14}{report.reason}")
