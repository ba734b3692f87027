"""What every command does at its edge: read the settings, load the stages, print JSON or a table."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from config.settings import Settings, load_settings
from config.vault import environment
from pipeline.kafka import EventProducer
from pipeline.registry import Registry
from pipeline.taskmodules import load_stages

#: Seconds to wait for what is still on its way to Kafka when a command ends.
CLOSING = 5.0

#: For people: progress and remarks, so that standard output holds results only. What is said is no markup and
#: is not broken into lines: a terminal does that, and who reads a file or greps a log wants them whole.
REMARKS = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def read_settings() -> Settings:
    """The settings of the environment."""
    return load_settings(environment())


def read_stages(settings: Settings) -> Registry:
    """The stages of TASK_MODULES; the current folder may hold them, as it may for worker and bridge."""
    return load_stages(settings.task_modules, Path.cwd())


@contextmanager
def producing(settings: Settings, client: str) -> Iterator[EventProducer]:
    """A producer for the block, under this name at the brokers."""
    producer = EventProducer(settings, client)
    try:
        yield producer
    finally:
        producer.close(CLOSING)


def require_terminal(option: str) -> None:
    """Refuse to ask where nobody can answer; ``option`` answers instead."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"There is nobody to ask: standard input is no terminal. Give {option}.")


def print_json(value: Mapping[str, Any]) -> None:
    """One object on one line of standard output."""
    click.echo(json.dumps(value, ensure_ascii=False))


def clean(text: str) -> str:
    """Without control characters: what others wrote must not steer a person's terminal."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in text
    )


def moment(seconds: float | None) -> str:
    """A time for people, in UTC; empty for None."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
