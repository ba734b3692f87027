"""``pipeline migrate``: coming over from another broker of Celery."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.markup import escape

from pipeline.cli.output import Console, print_json
from pipeline.migration.appchecks import check_app
from pipeline.migration.finding import LEVELS, Finding
from pipeline.migration.loadedapp import load_app, sources_of
from pipeline.migration.sourcechecks import check_sources

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


@click.group(
    epilog="""\b
Examples:
  pipeline migrate check -A proj
  pipeline migrate check -h

docs/guides/migration.md tells the whole way.""",
)
def migrate() -> None:
    """Come over from Celery on Redis, RabbitMQ or SQS."""


@migrate.command(
    short_help="Say what of a Celery app does not work here.",
    epilog="""\b
Examples:
  pipeline migrate check -A proj
  pipeline migrate check -A proj.celery:app --source proj --source shop
  DJANGO_SETTINGS_MODULE=proj.settings pipeline migrate check -A proj
  pipeline migrate check -A proj --json | jq '.[] | select(.level == "error")'

The app may have any broker, which is not connected to. Its code is imported, as a worker does. Exit code 1 if
there is an error, 2 if there is no such app.""",
)
@click.option(
    "-A",
    "--app",
    "name",
    required=True,
    envvar="CELERY_APP",
    metavar="APP",
    help="The Celery app, as for celery -A.",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A file or folder of code to search; default: the packages of the app and its tasks.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list: level, about, what, mend, where.")
def check(name: str, sources: tuple[Path, ...], as_json: bool) -> None:
    """Say what of a Celery app does not work here, or works in another way.

    An error does not work, or is refused. A warning works in another way. A note has no effect here.
    """
    app = load_app(name)
    places = sources or sources_of(app)
    found = [*check_app(app), *check_sources(places)]
    found.sort(key=lambda finding: LEVELS.index(finding.level))
    if as_json:
        print_json([asdict(finding) for finding in found], indent=2)
    else:
        _print(found, places)
    sys.exit(1 if any(finding.level == "error" for finding in found) else 0)


def _print(found: Sequence[Finding], places: Sequence[Path]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for each in found:
        where = f"{each.where}  " if each.where else ""
        console.print(
            f"[{STYLES[each.level]}]{each.level:<7}[/]  {escape(f'{where}{each.about}: {each.what}')}"
        )
        if each.mend:
            console.print(f"         → {escape(each.mend)}")
    counts = {level: sum(each.level == level for each in found) for level in LEVELS}
    searched = ", ".join(map(str, places)) or "no files"
    console.print(
        escape(f"{', '.join(f'{count} {level}s' for level, count in counts.items())}. Searched {searched}.")
    )
