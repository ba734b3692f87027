"""Readings of ``pipeline monitor`` as text: tables, and records as JSON."""

from collections.abc import Sequence
from dataclasses import asdict

from pipeline.cli.output import Lines, echo, moment, print_json
from pipeline.observe.queues import QueuesReport, Sample, attempts_histogram
from pipeline.observe.topics import ClusterReport, GroupReport, TopicReport


def print_kafka(report: ClusterReport, *, brief: bool) -> None:
    """Print topics (with ``brief`` one a line), then groups."""
    brokers = ", ".join(f"{number} at {at}" for number, at in report.brokers.items())
    echo(f"brokers: {brokers}")
    if brief:
        _topic_lines(report.topics).print()
    for topic in report.topics:
        if not brief:
            _print_topic(topic)
        for record in topic.records or ():
            print_json(asdict(record), indent=2)
    for group in report.groups:
        _print_group(group)


def print_sqs(report: QueuesReport) -> None:
    """Print queue depths, the trend of dead letters, a sample of them, and attempts."""
    lines = Lines("queue", "role", "available", "in flight", "delayed", ids=("queue",))
    for queue in report.reading.queues:
        counts = map(str, (queue.available, queue.in_flight, queue.delayed))
        lines.add(queue.name, queue.role, *counts)
    echo(f"{moment(report.reading.at)} UTC")
    lines.print()
    trend = f", {report.trend.word}: {round(report.trend.per_minute, 2):+g} a minute" if report.trend else ""
    echo(f"\ndead letters: {report.reading.dlq_depth}{trend}")
    _print_samples(report.dead_letters)
    if report.live is not None:
        echo("\nlive queue:")
        _print_samples(report.live)


def _topic_lines(topics: Sequence[TopicReport]) -> Lines:
    lines = Lines("topic", "partitions", "replication", "in sync", "records", ids=("topic",))
    for topic in topics:
        partitions = topic.partitions
        lines.add(
            topic.name,
            str(len(partitions)),
            str(min((len(each.replicas) for each in partitions), default=0)),
            str(min((len(each.isr) for each in partitions), default=0)),
            str(sum((each.high or 0) - (each.low or 0) for each in partitions)),
        )
    return lines


def _print_topic(topic: TopicReport) -> None:
    echo(f"\n{topic.name}")
    if topic.config:
        echo("  " + "  ".join(f"{name}={value}" for name, value in topic.config.items()))
    lines = Lines("partition", "leader", "replicas", "isr", "low", "high")
    for each in topic.partitions:
        brokers = (",".join(map(str, ids)) for ids in (each.replicas, each.isr))
        marks = ("?" if mark is None else str(mark) for mark in (each.low, each.high))
        lines.add(str(each.partition), str(each.leader), *brokers, *marks)
    lines.print()


def _print_group(group: GroupReport) -> None:
    echo(f"\ngroup {group.name}: {group.state}, {len(group.members)} members, lag {group.lag}")
    if group.problem is not None:
        echo(f"  members unknown: {group.problem}")
    for member in group.members:
        echo(f"  {member.client_id} at {member.host}: {len(member.partitions)} partitions")
    lines = Lines("topic", "partition", "low", "high", "committed", "lag", "member", ids=("topic",))
    for each in group.partitions:
        numbers = map(str, (each.partition, each.low, each.high))
        committed = "-" if each.committed is None else str(each.committed)
        lines.add(each.topic, *numbers, committed, str(each.lag), each.member or "")
    lines.print()


def _print_samples(samples: Sequence[Sample]) -> None:
    if not samples:
        return
    lines = Lines("message", "age", "attempts", "task", "job", "reason", ids=("message", "job"))
    for sample in samples:
        lines.add(
            sample.message_id,
            f"{sample.age_seconds:.0f} s",
            str(sample.attempts),
            sample.task or "",
            str(sample.job_id or ""),
            sample.attributes.get("reason") or "",
        )
    lines.print()
    counts = ", ".join(f"{count} with {each}" for each, count in attempts_histogram(samples).items())
    echo(f"attempts of these: {counts}")
