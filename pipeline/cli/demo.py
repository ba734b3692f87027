"""``pipeline demo``: the example pipeline on real documents, with a check of the result."""

import contextlib
import functools
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.author.registry import Registry
from pipeline.cli.output import REMARKS, Console, print_json
from pipeline.cli.web import address, jobs_page, new_token
from pipeline.demo.changes import TOPIC
from pipeline.demo.inputs import allowed_by, find_documents
from pipeline.demo.report import Report
from pipeline.demo.run import Events, demo_environment, run_demo
from pipeline.services.children import children
from pipeline.services.embedded import embedded_services
from pipeline.services.environment import Services
from pipeline.services.local import local_services
from pipeline.settings import Settings


@click.command(
    short_help="Count the words of documents with a bridge and a worker.",
    epilog="""\b
Examples:
  pipeline demo
  pipeline demo ~/Documents/notes README.md
  pipeline demo --web
  pipeline demo --events debezium
  pipeline demo --services local --json""",
)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option(
    "--services",
    "which",
    type=click.Choice(["embedded", "local"]),
    default="embedded",
    show_default=True,
    help="embedded: nothing to install, in memory. local: Apache Kafka, ElasticMQ and DynamoDB Local "
    "(needs java and mvn).",
)
@click.option(
    "--events",
    type=click.Choice(["json", "debezium"]),
    default="json",
    show_default=True,
    help="json: the documents are submitted. debezium: they come as Debezium's changes of a table, and a "
    "consumer makes the first events of them.",
)
@click.option("--web", is_flag=True, help="Serve the jobs page during the run and afterwards, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def demo(paths: tuple[Path, ...], which: str, events: Events, web: bool, as_json: bool) -> None:
    """Count the words of documents with a real bridge and a real worker, one job a document.

    Each PATH is a file or a folder; without any, the sources of Python's standard library are the
    documents. At the end the result is compared with that of a plain loop over the same files: exit
    code 1 when anything differs.
    """
    # SIGTERM ends like Ctrl-C: processes and services are stopped in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    documents = find_documents(paths)
    REMARKS.print(f"{len(documents):,} documents. Starting the {which} services …")
    if events == "debezium":
        REMARKS.print(f"Each comes as a new row of a table, on the topic {TOPIC}.")
    with (
        _stopped_report(),
        _services(which) as services,
        tempfile.TemporaryDirectory(prefix="pipeline-demo-") as folder,
        children() as started,
        contextlib.ExitStack() as pages,
        _stopping_report(),
    ):
        # This process uses the services too: boto3 reads their addresses from the environment.
        environment = demo_environment(services, allowed_by(paths), events) | {"WEB_TOKEN": new_token()}
        os.environ.clear()
        os.environ.update(environment)
        show = functools.partial(_show_page, pages) if web else _show_nothing
        report = run_demo(documents, services, started, Path(folder), REMARKS, show)
        if web:
            _print(report, as_json)
            _wait_for_the_user()
    if not web:
        _print(report, as_json)
    sys.exit(0 if report.verified else 1)


@contextlib.contextmanager
def _stopping_report() -> Iterator[None]:
    """Print that the processes and services stop now, also after Ctrl-C."""
    try:
        yield
    finally:
        REMARKS.print("Stopping bridge, worker and services …")


@contextlib.contextmanager
def _stopped_report() -> Iterator[None]:
    """Print after Ctrl-C, or SIGTERM, that nothing is left."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        REMARKS.print("All processes are stopped, and the data of the services is deleted.")
        raise


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        print_json(report.fields())
    else:
        report.print(Console(highlight=False))


def _show_page(until: contextlib.ExitStack, settings: Settings, registry: Registry) -> None:
    """Serve the jobs page until the stack is closed."""
    # Any free port: a demonstration must not fail because of another program.
    server = until.enter_context(jobs_page(settings, registry, "127.0.0.1", 0))
    server.start()
    until.callback(server.stop)
    assert settings.web_token is not None
    REMARKS.print(f"The jobs page: {address(server.port, settings.web_token.get_secret_value())}")


def _show_nothing(_settings: Settings, _registry: Registry) -> None: ...


def _wait_for_the_user() -> None:
    REMARKS.print("The jobs page is still there. Ctrl-C ends it.")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


@contextlib.contextmanager
def _services(which: str) -> Iterator[Services]:
    with embedded_services() if which == "embedded" else local_services(progress=REMARKS.print) as services:
        yield services
