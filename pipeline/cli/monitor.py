"""``pipeline monitor``: look at topics, groups and queues; each view once, or again every ten seconds."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import click

from pipeline.cli.edge import REMARKS, clean, print_json, read_settings, read_stages
from pipeline.cli.monitorview import print_kafka, print_sqs
from pipeline.errors import ServiceError
from pipeline.monitoring.kafka import GroupView, KafkaMonitor, TopicView
from pipeline.monitoring.sqs import (
    LIVE_WARNING,
    Reading,
    Sample,
    SqsMonitor,
    attempts_histogram,
    trend,
)

#: Seconds between two looks with --watch.
INTERVAL = 10.0

#: What ``--consumer-groups`` without a name means.
ALL = "*"

View = dict[str, Any]

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON: one object a look and line.")
_watch = click.option("--watch", is_flag=True, help=f"Look again every {INTERVAL:g} s, until Ctrl-C.")


@click.group()
def monitor() -> None:
    """Look at Kafka or SQS."""


@monitor.command(
    short_help="Topics, newest records, and consumer groups' lag.",
    epilog="""\b
Examples:
  pipeline monitor kafka
  pipeline monitor kafka --topics my-prefix- --show-messages 5
  pipeline monitor kafka --consumer-groups my-consumer-group --watch
  pipeline monitor kafka --consumer-groups
  pipeline monitor kafka --list-all-topics --json

Without an option: this service's topics and its consumer group.""",
)
@click.option("--topics", "prefix", metavar="PREFIX", help="Topics whose names start so.")
@click.option("--list-all-topics", is_flag=True, help="Every topic of the cluster, a line each.")
@click.option(
    "--show-messages",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="The newest N records of each topic shown, as JSON with their headers.",
)
@click.option(
    "--consumer-groups",
    is_flag=False,
    flag_value=ALL,
    metavar="[GROUP]",
    help="A consumer group, or all of them: lag and marks of each partition, members.",
)
@_watch
@_json
def kafka(
    prefix: str | None,
    list_all_topics: bool,
    show_messages: int | None,
    consumer_groups: str | None,
    watch: bool,
    as_json: bool,
) -> None:
    """Topics, partitions, configuration, newest records, and consumer groups' lag."""
    settings = read_settings()
    looking = KafkaMonitor(settings)
    only_groups = consumer_groups is not None and prefix is None and not list_all_topics

    def topics() -> list[TopicView]:
        if only_groups and show_messages is None:
            return []
        if prefix is not None or list_all_topics:
            return looking.topics(prefix or "")
        return looking.service_topics(read_stages(settings))

    def group(name: str) -> GroupView:
        if name == settings.kafka_consumer_group:
            return looking.service_group(read_stages(settings))
        return looking.group(name)

    def look() -> View:
        found = topics()
        name = consumer_groups or (
            "" if prefix is not None or list_all_topics else settings.kafka_consumer_group
        )
        names = looking.group_names() if name == ALL else [name] if name else []
        return {
            "bootstrap_servers": settings.kafka_bootstrap_servers,
            "brokers": looking.brokers(),
            "topics": [_topic(looking, topic, show_messages) for topic in found],
            "groups": [asdict(group(each)) for each in names],
        }

    _show(look, lambda view: print_kafka(view, brief=list_all_topics), watch, as_json)


@monitor.command(
    epilog="""\b
Examples:
  pipeline monitor sqs
  pipeline monitor sqs --profile my_profile --region us-east-1
  pipeline monitor sqs --watch
  pipeline monitor sqs --sample 10 --json

Dead letters are looked at without being taken away."""
)
@click.option("--profile", help="The AWS profile to use, over AWS_PROFILE.")
@click.option("--region", help="The AWS region to use, over AWS_DEFAULT_REGION.")
@click.option(
    "--sample",
    type=click.IntRange(0, 10),
    default=5,
    show_default=True,
    help="How many dead letters to look at.",
)
@click.option(
    "--live", is_flag=True, help="Look at as many tasks of the live queue too, which has effects on it."
)
@_watch
@_json
def sqs(profile: str | None, region: str | None, sample: int, live: bool, watch: bool, as_json: bool) -> None:
    """Queue depths, dead letters and their trend, attempts."""
    settings = read_settings()
    # boto3's own chain reads these; the client is made after.
    os.environ.update(_given(AWS_PROFILE=profile, AWS_DEFAULT_REGION=region))
    if live:
        REMARKS.print(f"Warning: {LIVE_WARNING}", style="yellow")
    looking, registry = SqsMonitor(settings), read_stages(settings)
    earlier: Reading | None = None

    def look() -> View:
        nonlocal earlier
        now = looking.read(registry)
        dead = looking.dead_letters(sample) if now.dlq_depth else []
        view = _sqs_view(earlier, now, dead)
        if live:
            view["live"] = _sampled(looking.live(sample))
        earlier = now
        return view

    _show(look, print_sqs, watch, as_json)


def _given(**variables: str | None) -> dict[str, str]:
    return {name: value for name, value in variables.items() if value is not None}


def _topic(looking: KafkaMonitor, topic: TopicView, count: int | None) -> View:
    view = asdict(topic)
    if count:
        view["messages"] = [asdict(message) for message in looking.newest(topic.name, count)]
    return view


def _sqs_view(earlier: Reading | None, now: Reading, dead: list[Sample]) -> View:
    since = trend(earlier, now)
    return {
        "at": now.at,
        "queues": [asdict(queue) for queue in now.queues],
        "dlq": {
            "depth": now.dlq_depth,
            "trend": since.word if since else None,
            "change": since.change if since else None,
            "per_minute": round(since.per_minute, 2) if since else None,
            **_sampled(dead),
        },
    }


def _sampled(samples: list[Sample]) -> View:
    return {
        "sample": [asdict(sample) for sample in samples],
        "attempts_histogram": {str(each): count for each, count in attempts_histogram(samples).items()},
        "oldest_seconds": max((sample.age_seconds for sample in samples), default=None),
    }


def _show(look: Callable[[], View], show: Callable[[View], None], watch: bool, as_json: bool) -> None:
    for view in _looks(look, watch):
        if as_json:
            print_json(view)
            continue
        if watch:
            click.clear()
        show(view)


def _looks(look: Callable[[], View], watch: bool) -> Iterator[View]:
    """One look, or looks until Ctrl-C; a service that is away for a while does not end a watch."""
    if not watch:
        yield look()
        return
    while True:
        try:
            yield look()
        except ServiceError as error:
            click.echo(clean(f"Error: {error}"), err=True)
        time.sleep(INTERVAL)
