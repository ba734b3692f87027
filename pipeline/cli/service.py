"""The service that a command works on: its settings, its stages, its Kafka producer."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from pipeline.author.loading import load_stages
from pipeline.author.registry import Registry
from pipeline.jobs import JobStore
from pipeline.kafka import EventProducer
from pipeline.settings import Settings, load_settings
from pipeline.vault import environment

#: Seconds to wait for unacknowledged records when a command ends.
CLOSING = 5.0

#: The fewest characters of an id that are searched for, and the length of the longest id.
MIN_PREFIX, MAX_ID = 4, 128

#: Seconds to search for the beginning of an id, and the matches that an error lists.
SEARCH_SECONDS, CANDIDATES = 10.0, 10


def read_settings() -> Settings:
    """Return the settings of the environment."""
    return load_settings(environment())


def read_stages(settings: Settings) -> Registry:
    """Load stages and consumers; the current folder may hold them, as for worker and bridge."""
    return load_stages(settings.task_modules, Path.cwd(), settings.consumer_modules)


def job_ids_of(
    text: str, exists: Callable[[str], bool], search: Callable[[str], Sequence[str]]
) -> Sequence[str]:
    """Return the job ids that a text is, or begins, as the jobs page shows it."""
    if exists(text):
        return [text]
    return search(text) if MIN_PREFIX <= len(text) < MAX_ID and text.isascii() else []


def one_job_id(text: str, found: Sequence[str]) -> str:
    """Return the only id of those found for a text; fail with the candidates if there are several."""
    if not found:
        raise unknown_job(text)
    if len(found) == 1:
        return found[0]
    more = f"\n  and {len(found) - CANDIDATES:,} more" if len(found) > CANDIDATES else ""
    listed = "\n  ".join(found[:CANDIDATES])
    raise click.UsageError(
        f"{len(found):,} jobs have an id that starts with {text!r}. Give more of it:\n  {listed}{more}"
    )


def unknown_job(text: str) -> click.UsageError:
    """Return the error for an id that no job has or begins with."""
    return click.UsageError(f"There is no job {text!r} in this service. pipeline jobs list shows all.")


def stored_job_ids(store: JobStore, text: str) -> Sequence[str]:
    """Return the ids of jobs in the store that a text is, or begins."""
    return job_ids_of(
        text,
        lambda job_id: store.records.get(job_id) is not None,
        lambda prefix: store.listing.starting_with(prefix, SEARCH_SECONDS),
    )


@contextmanager
def producing(settings: Settings, client: str) -> Iterator[EventProducer]:
    """Give a producer for the block; ``client`` is its name at the brokers."""
    producer = EventProducer(settings, client)
    try:
        yield producer
    finally:
        producer.close(CLOSING)


def require_terminal(option: str) -> None:
    """Refuse to ask a question without a terminal; ``option`` answers it instead."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"Standard input is not a terminal, so there is no prompt. Give {option}.")
