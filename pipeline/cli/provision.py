"""``pipeline provision``: create topics, queues and table, and report differences."""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click
from rich.text import Text

from pipeline.author.registry import Registry
from pipeline.cli.output import REMARKS, RESULTS, echo, print_json
from pipeline.cli.service import read_settings, read_stages
from pipeline.infra.export import cloudformation, terraform
from pipeline.infra.iam import policy
from pipeline.infra.needs import ROLES, Role
from pipeline.infra.provision import Result
from pipeline.infra.provision import provision as provision_service
from pipeline.settings import Settings

_EXPORTS: dict[str, Callable[[Settings, Registry], dict[str, Any]]] = {
    "cloudformation": cloudformation,
    "terraform": terraform,
}

_COLOURS = {"made": "green", "updated": "green", "present": "dim", "differs": "yellow"}


@click.command(
    epilog="""\b
Examples:
  pipeline provision                 create missing resources, at each deployment
  pipeline provision --update        also change differing ones
  pipeline provision --json | jq -r 'select(.outcome == "differs").name'
  pipeline provision --iam worker > worker-policy.json
  pipeline provision --export terraform > pipeline.tf.json
  pipeline provision --export cloudformation > pipeline.json

Exit code 1 when --update could not change all differences."""
)
@click.option("--update", is_flag=True, help="Change differing resources; without it they are only reported.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for each resource.")
@click.option(
    "--iam",
    "role",
    type=click.Choice(ROLES),
    help="Print the minimal IAM policy for a process; create nothing.",
)
@click.option(
    "--export",
    "exported",
    type=click.Choice(sorted(_EXPORTS)),
    help="Print the same resources for another tool; create nothing.",
)
def provision(update: bool, as_json: bool, role: Role | None, exported: str | None) -> None:
    """Create the topics, queues, table and schemas of this service.

    Existing resources are not changed. Those with less than the service needs are reported; larger values
    are accepted.
    """
    if sum(map(bool, (update, role, exported))) > 1:
        raise click.UsageError("--update, --iam and --export exclude each other.")
    settings = read_settings()
    if role:
        print_json(policy(settings, read_stages(settings), role), indent=2)
    elif exported:
        _export(settings, exported)
    else:
        _make(settings, update, as_json)


def _export(settings: Settings, form: str) -> None:
    print_json(_EXPORTS[form](settings, read_stages(settings)), indent=2)
    if form == "cloudformation" and not settings.msk_cluster_arn:
        REMARKS.print(
            "No topics: CloudFormation creates them on MSK only, and MSK_CLUSTER_ARN is not set. "
            '"pipeline provision" creates them on any Kafka.'
        )


def _make(settings: Settings, update: bool, as_json: bool) -> None:
    outcomes: Counter[str] = Counter()
    for result in provision_service(settings, read_stages(settings), update=update):
        outcomes[result.outcome] += 1
        if as_json:
            print_json(asdict(result))
        else:
            _print(result)
    if not as_json:
        summary = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        hint = (
            '. "pipeline provision --update" changes differing resources'
            if outcomes["differs"] and not update
            else ""
        )
        REMARKS.print(f"{summary}{hint}.")
    sys.exit(1 if update and outcomes["differs"] else 0)


def _print(result: Result) -> None:
    outcome = (result.outcome.ljust(8), _COLOURS[result.outcome])
    RESULTS.print(Text.assemble(outcome, f"{result.kind.ljust(6)} {result.name}"))
    for line in (*(f"changed: {text}" for text in result.changed), *result.differences):
        echo(f"{'':15}{line}")
