"""``pipeline check``: the production checklist against the configured environment."""

import sys
from collections.abc import Iterable
from dataclasses import asdict

import click
from rich.markup import escape

from pipeline.checklist import (
    Facts,
    Line,
    Status,
    run_checklist,
    settings_to_check,
)
from pipeline.cli.output import Console, print_json
from pipeline.cli.service import read_stages
from pipeline.vault import environment

STYLES = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.SKIP: "dim"}


@click.command(
    short_help="Check the environment against the production checklist.",
    epilog="""\b
Examples:
  pipeline check
  pipeline check --json | jq '.[] | select(.status == "FAIL")'
  pipeline check && deploy

Nothing is changed: no event is sent, no message received, no group joined. Exit code 1 when a line FAILs.""",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON list: id, section, title, status, evidence, mend."
)
def check(as_json: bool) -> None:
    """Check the environment against the production checklist.

    Each line is PASS, WARN, FAIL or SKIP, with the evidence and the fix.
    """
    environ = environment()
    settings = settings_to_check(environ)
    facts = Facts(settings, read_stages(settings), environ)
    lines = run_checklist(facts)
    found = _print_json(lines) if as_json else _print(lines)
    sys.exit(1 if any(line.status is Status.FAIL for line in found) else 0)


def _print_json(lines: Iterable[Line]) -> list[Line]:
    found = list(lines)
    print_json([asdict(line) for line in found], indent=2)
    return found


def _print(lines: Iterable[Line]) -> list[Line]:
    """Print each line as soon as it is known."""
    console = Console(highlight=False, soft_wrap=True)
    found: list[Line] = []
    for line in lines:
        if not found or found[-1].section != line.section:
            console.print(f"\n[bold]{line.section}[/bold]")
        found.append(line)
        console.print(
            f"[{STYLES[line.status]}]{line.status}[/]  {escape(line.title)}: {escape(line.evidence)}"
        )
        if line.mend:
            console.print(f"      → {escape(line.mend)}")
    counts = {status: sum(line.status is status for line in found) for status in Status}
    console.print("\n" + ", ".join(f"{count} {status}" for status, count in counts.items()))
    return found
