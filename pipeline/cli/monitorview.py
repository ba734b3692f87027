"""``pipeline monitor``'s views for people: tables, and records as JSON."""

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from pipeline.cli.edge import clean, moment

#: Characters of a group member's assignment, and of a reason, that fit a line.
CUT = 60


def print_kafka(view: dict[str, Any], *, brief: bool) -> None:
    """Topics (with ``brief`` a line each), then groups."""
    brokers = ", ".join(f"{number} at {at}" for number, at in view["brokers"].items())
    click.echo(f"brokers: {brokers}")
    if brief:
        _print(_topic_lines(view["topics"]))
    for topic in view["topics"]:
        if not brief:
            _print_topic(topic)
        for message in topic.get("messages", ()):
            click.echo(json.dumps(message, ensure_ascii=False, indent=2))
    for group in view["groups"]:
        _print_group(group)


def print_sqs(view: dict[str, Any]) -> None:
    """Depths, the dead letters' trend, a sample of them and their attempts."""
    table = _table("queue", "role", "available", "in flight", "delayed")
    for queue in view["queues"]:
        counts = (str(queue[name]) for name in ("available", "in_flight", "delayed"))
        table.add_row(queue["name"], queue["role"], *counts)
    click.echo(f"{moment(view['at'])} UTC")
    _print(table)
    dlq = view["dlq"]
    trend = f", {dlq['trend']}: {dlq['per_minute']:+g} a minute" if dlq["trend"] else ""
    click.echo(f"\ndead letters: {dlq['depth']}{trend}")
    _print_samples(dlq)
    if "live" in view:
        click.echo("\nlive queue:")
        _print_samples(view["live"])


def _topic_lines(topics: list[dict[str, Any]]) -> Table:
    table = _table("topic", "partitions", "replication", "in sync", "records")
    for topic in topics:
        partitions = topic["partitions"]
        table.add_row(
            topic["name"],
            str(len(partitions)),
            str(min((len(each["replicas"]) for each in partitions), default=0)),
            str(min((len(each["isr"]) for each in partitions), default=0)),
            str(sum((each["high"] or 0) - (each["low"] or 0) for each in partitions)),
        )
    return table


def _print_topic(topic: dict[str, Any]) -> None:
    click.echo(f"\n{topic['name']}")
    if topic["config"]:
        click.echo("  " + "  ".join(f"{name}={value}" for name, value in topic["config"].items()))
    table = _table("partition", "leader", "replicas", "isr", "low", "high")
    for each in topic["partitions"]:
        brokers = (",".join(map(str, each[name])) for name in ("replicas", "isr"))
        marks = ("?" if each[name] is None else str(each[name]) for name in ("low", "high"))
        table.add_row(str(each["partition"]), str(each["leader"]), *brokers, *marks)
    _print(table)


def _print_group(group: dict[str, Any]) -> None:
    members = group["members"]
    click.echo(f"\ngroup {group['name']}: {group['state']}, {len(members)} members, lag {group['lag']}")
    for member in members:
        click.echo(f"  {member['client_id']} at {member['host']}: {len(member['partitions'])} partitions")
    table = _table("topic", "partition", "low", "high", "committed", "lag", "member")
    for each in group["partitions"]:
        numbers = (str(each[name]) for name in ("partition", "low", "high"))
        committed = "-" if each["committed"] is None else str(each["committed"])
        table.add_row(each["topic"], *numbers, committed, str(each["lag"]), each["member"] or "")
    _print(table)


def _print_samples(view: dict[str, Any]) -> None:
    if not view["sample"]:
        return
    table = _table("message", "age", "attempts", "task", "job", "reason")
    for sample in view["sample"]:
        reason = clean(sample["attributes"].get("reason") or "").replace("\n", " ")
        table.add_row(
            sample["message_id"],
            f"{sample['age_seconds']:.0f} s",
            str(sample["attempts"]),
            clean(sample["task"] or "")[:CUT],
            clean(str(sample["job_id"] or "")),
            reason[:CUT],
        )
    _print(table)
    counts = ", ".join(f"{count} with {each}" for each, count in view["attempts_histogram"].items())
    click.echo(f"attempts of these: {counts}")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _print(table: Table) -> None:
    if not table.row_count:
        return
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # Through a pipe nothing is cut.
        console.width = 500
    console.print(table)
