"""``pipeline monitor``: topics, consumer groups and queues; once, or every ten seconds."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import click

from pipeline.cli.monitorview import print_kafka, print_sqs
from pipeline.cli.output import REMARKS, echo, print_json
from pipeline.cli.service import read_settings, read_stages
from pipeline.errors import ServiceError
from pipeline.observe.queues import (
    LIVE_WARNING,
    QueuesReport,
    Reading,
    Sample,
    SqsMonitor,
    attempts_histogram,
    trend,
)
from pipeline.observe.topics import ClusterReport, GroupReport, KafkaMonitor, TopicReport

#: Seconds between two readings with --watch.
INTERVAL = 10.0

#: The value of ``--consumer-groups`` without a name.
ALL = "*"

AnyReport = TypeVar("AnyReport", ClusterReport, QueuesReport)
Json = dict[str, Any]

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
_watch = click.option("--watch", is_flag=True, help=f"Repeat every {INTERVAL:g} s, until Ctrl-C.")


@click.group(
    epilog="""\b
Examples:
  pipeline monitor kafka
  pipeline monitor sqs --watch"""
)
def monitor() -> None:
    """Show the state of Kafka or SQS."""


@monitor.command(
    short_help="Show topics, newest records, and the lag of consumer groups.",
    epilog="""\b
Examples:
  pipeline monitor kafka
  pipeline monitor kafka --topics my-prefix- --show-messages 5
  pipeline monitor kafka --consumer-groups my-consumer-group --watch
  pipeline monitor kafka --consumer-groups
  pipeline monitor kafka --list-all-topics --json

Without an option: the topics of this service and its consumer group.""",
)
@click.option("--topics", "prefix", metavar="PREFIX", help="Topics whose names start with PREFIX.")
@click.option("--list-all-topics", is_flag=True, help="Every topic of the cluster, one a line.")
@click.option(
    "--show-messages",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Also the newest N records of each topic, as JSON with their headers.",
)
@click.option(
    "--consumer-groups",
    is_flag=False,
    flag_value=ALL,
    metavar="[GROUP]",
    help="One consumer group, or all without a name: members, and lag and offsets of each partition.",
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
    """Show topics, partitions, configuration, newest records, and the lag of consumer groups."""
    settings = read_settings()
    looking = KafkaMonitor(settings)
    only_groups = consumer_groups is not None and prefix is None and not list_all_topics

    def topics() -> list[TopicReport]:
        if only_groups and show_messages is None:
            return []
        if prefix is not None or list_all_topics:
            return looking.topics(prefix or "")
        return looking.service_topics(read_stages(settings))

    def groups(names: Sequence[str]) -> list[GroupReport]:
        return looking.groups(
            names, read_stages(settings) if settings.kafka_consumer_group in names else None
        )

    def with_records(topic: TopicReport) -> TopicReport:
        if show_messages is None:
            return topic
        return replace(topic, records=tuple(looking.newest(topic.name, show_messages)))

    def look() -> ClusterReport:
        found = topics()
        name = consumer_groups or (
            "" if prefix is not None or list_all_topics else settings.kafka_consumer_group
        )
        names = looking.group_names() if name == ALL else [name] if name else []
        return ClusterReport(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            brokers=looking.brokers(),
            topics=tuple(map(with_records, found)),
            groups=tuple(groups(names)),
        )

    _show(look, lambda report: print_kafka(report, brief=list_all_topics), _cluster_json, watch, as_json)


@monitor.command(
    epilog="""\b
Examples:
  pipeline monitor sqs
  pipeline monitor sqs --profile my_profile --region us-east-1
  pipeline monitor sqs --watch
  pipeline monitor sqs --sample 10 --json

Dead letters are read without being removed."""
)
@click.option("--profile", help="The AWS profile; overrides AWS_PROFILE.")
@click.option("--region", help="The AWS region; overrides AWS_DEFAULT_REGION.")
@click.option(
    "--sample",
    type=click.IntRange(0, 10),
    default=5,
    show_default=True,
    help="Number of dead letters to read.",
)
@click.option(
    "--live", is_flag=True, help="Also receive as many tasks of the live queue: raises their receive count."
)
@_watch
@_json
def sqs(profile: str | None, region: str | None, sample: int, live: bool, watch: bool, as_json: bool) -> None:
    """Show queue depths, dead letters with their trend, and attempts."""
    settings = read_settings()
    # boto3's own chain reads these; the client is made after.
    os.environ.update(_overrides(AWS_PROFILE=profile, AWS_DEFAULT_REGION=region))
    if live:
        REMARKS.print(f"Warning: {LIVE_WARNING}", style="yellow")
    looking, registry = SqsMonitor(settings), read_stages(settings)
    earlier: Reading | None = None

    def look() -> QueuesReport:
        nonlocal earlier
        before, earlier = earlier, looking.read(registry)
        return QueuesReport(
            reading=earlier,
            trend=trend(before, earlier),
            dead_letters=tuple(looking.dead_letters(sample)) if earlier.dlq_depth else (),
            live=tuple(looking.live(sample)) if live else None,
        )

    _show(look, print_sqs, _queues_json, watch, as_json)


def _overrides(**variables: str | None) -> dict[str, str]:
    return {name: value for name, value in variables.items() if value is not None}


def _cluster_json(report: ClusterReport) -> Json:
    return {
        "bootstrap_servers": report.bootstrap_servers,
        "brokers": dict(report.brokers),
        "topics": [_topic_json(topic) for topic in report.topics],
        "groups": [asdict(group) for group in report.groups],
    }


def _topic_json(topic: TopicReport) -> Json:
    found = asdict(topic)
    records = found.pop("records")
    return found if records is None else found | {"messages": records}


def _queues_json(report: QueuesReport) -> Json:
    found = {
        "at": report.reading.at,
        "queues": [asdict(queue) for queue in report.reading.queues],
        "dlq": {
            "depth": report.reading.dlq_depth,
            "trend": report.trend.word if report.trend else None,
            "change": report.trend.change if report.trend else None,
            "per_minute": round(report.trend.per_minute, 2) if report.trend else None,
            **_samples_json(report.dead_letters),
        },
    }
    return found if report.live is None else found | {"live": _samples_json(report.live)}


def _samples_json(samples: Sequence[Sample]) -> Json:
    return {
        "sample": [asdict(sample) for sample in samples],
        "attempts_histogram": {str(each): count for each, count in attempts_histogram(samples).items()},
        "oldest_seconds": max((sample.age_seconds for sample in samples), default=None),
    }


def _show(
    look: Callable[[], AnyReport],
    show: Callable[[AnyReport], None],
    to_json: Callable[[AnyReport], Json],
    watch: bool,
    as_json: bool,
) -> None:
    for report in _looks(look, watch):
        if as_json:
            print_json(to_json(report))
            continue
        if watch:
            click.clear()
        show(report)


def _looks(look: Callable[[], AnyReport], watch: bool) -> Iterator[AnyReport]:
    """Give one reading, or readings until Ctrl-C; an outage of a service does not end a watch."""
    if not watch:
        yield look()
        return
    while True:
        try:
            yield look()
        except ServiceError as error:
            echo(f"Error: {error}", err=True)
        time.sleep(INTERVAL)
