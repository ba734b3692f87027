"""``pipeline provision``: make topics, queues and table, and say what differs."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from config.settings import Settings
from pipeline.cli.edge import REMARKS, print_json, read_settings, read_stages
from pipeline.export import cloudformation, terraform
from pipeline.iam import ROLES, Role, policy
from pipeline.provision import Result
from pipeline.provision import provision as provision_service
from pipeline.registry import Registry

_EXPORTS: dict[str, Callable[[Settings, Registry], dict[str, Any]]] = {
    "cloudformation": cloudformation,
    "terraform": terraform,
}

_COLOURS = {"made": "green", "updated": "green", "present": "dim", "differs": "yellow"}


@click.command(
    epilog="""\b
Examples:
  pipeline provision                 make what is missing, at each deployment
  pipeline provision --update        also change what differs
  pipeline provision --json | jq -r 'select(.outcome == "differs").name'
  pipeline provision --iam worker > worker-policy.json
  pipeline provision --export terraform > pipeline.tf.json
  pipeline provision --export cloudformation > pipeline.json

Exit code 1 when --update could not change all that differs."""
)
@click.option("--update", is_flag=True, help="Change what differs; without it, only say so.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for each thing.")
@click.option(
    "--iam",
    "role",
    type=click.Choice(ROLES),
    help="Print the least IAM policy that a process needs, and make nothing.",
)
@click.option(
    "--export",
    "exported",
    type=click.Choice(sorted(_EXPORTS)),
    help="Print the same topics, queues and table for another tool, and make nothing.",
)
def provision(update: bool, as_json: bool, role: Role | None, exported: str | None) -> None:
    """Make the topics, queues and table of this service.

    What is there stays as it is; what is less than the service needs is shown. More is as good.
    """
    if sum(map(bool, (update, role, exported))) > 1:
        raise click.UsageError("--update, --iam and --export exclude each other.")
    settings = read_settings()
    if role:
        click.echo(json.dumps(policy(settings, read_stages(settings), role), indent=2))
    elif exported:
        _export(settings, exported)
    else:
        _make(settings, update, as_json)


def _export(settings: Settings, form: str) -> None:
    click.echo(json.dumps(_EXPORTS[form](settings, read_stages(settings)), indent=2))
    if form == "cloudformation" and not settings.msk_cluster_arn:
        REMARKS.print(
            "No topics: CloudFormation makes them on MSK only, and MSK_CLUSTER_ARN is not set. "
            '"pipeline provision" makes them on any Kafka.'
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
            '. "pipeline provision --update" changes what differs'
            if outcomes["differs"] and not update
            else ""
        )
        REMARKS.print(f"{summary}{hint}.")
    sys.exit(1 if update and outcomes["differs"] else 0)


def _print(result: Result) -> None:
    colour = _COLOURS[result.outcome]
    click.echo(
        f"{click.style(result.outcome.ljust(8), fg=None if colour == 'dim' else colour, dim=colour == 'dim')}"
        f"{result.kind.ljust(6)} {result.name}"
    )
    for line in (*(f"changed: {text}" for text in result.changed), *result.differences):
        click.echo(f"{'':15}{line}")
