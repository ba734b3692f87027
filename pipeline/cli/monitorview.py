"""``pipeline monitor``'s views for people: tables, and records as JSON."""

import json
from typing import Any

import click

from pipeline.cli.edge import clean, moment
from pipeline.cli.lines import Lines

#: Characters of a group member's assignment, and of a reason, that fit a line.
CUT = 60


def print_kafka(view: dict[str, Any], *, brief: bool) -> None:
    """Topics (with ``brief`` a line each), then groups."""
    brokers = ", ".join(f"{number} at {at}" for number, at in view["brokers"].items())
    _say(f"brokers: {brokers}")
    if brief:
        _topic_lines(view["topics"]).print()
    for topic in view["topics"]:
        if not brief:
            _print_topic(topic)
        for message in topic.get("messages", ()):
            _say(json.dumps(message, ensure_ascii=False, indent=2))
    for group in view["groups"]:
        _print_group(group)


def print_sqs(view: dict[str, Any]) -> None:
    """Depths, the dead letters' trend, a sample of them and their attempts."""
    lines = Lines("queue", "role", "available", "in flight", "delayed")
    for queue in view["queues"]:
        counts = (str(queue[name]) for name in ("available", "in_flight", "delayed"))
        lines.add(queue["name"], queue["role"], *counts)
    _say(f"{moment(view['at'])} UTC")
    lines.print()
    dlq = view["dlq"]
    trend = f", {dlq['trend']}: {dlq['per_minute']:+g} a minute" if dlq["trend"] else ""
    _say(f"\ndead letters: {dlq['depth']}{trend}")
    _print_samples(dlq)
    if "live" in view:
        _say("\nlive queue:")
        _print_samples(view["live"])


def _topic_lines(topics: list[dict[str, Any]]) -> Lines:
    lines = Lines("topic", "partitions", "replication", "in sync", "records")
    for topic in topics:
        partitions = topic["partitions"]
        lines.add(
            topic["name"],
            str(len(partitions)),
            str(min((len(each["replicas"]) for each in partitions), default=0)),
            str(min((len(each["isr"]) for each in partitions), default=0)),
            str(sum((each["high"] or 0) - (each["low"] or 0) for each in partitions)),
        )
    return lines


def _print_topic(topic: dict[str, Any]) -> None:
    _say(f"\n{topic['name']}")
    if topic["config"]:
        _say("  " + "  ".join(f"{name}={value}" for name, value in topic["config"].items()))
    lines = Lines("partition", "leader", "replicas", "isr", "low", "high")
    for each in topic["partitions"]:
        brokers = (",".join(map(str, each[name])) for name in ("replicas", "isr"))
        marks = ("?" if each[name] is None else str(each[name]) for name in ("low", "high"))
        lines.add(str(each["partition"]), str(each["leader"]), *brokers, *marks)
    lines.print()


def _print_group(group: dict[str, Any]) -> None:
    members = group["members"]
    _say(f"\ngroup {group['name']}: {group['state']}, {len(members)} members, lag {group['lag']}")
    for member in members:
        _say(f"  {member['client_id']} at {member['host']}: {len(member['partitions'])} partitions")
    lines = Lines("topic", "partition", "low", "high", "committed", "lag", "member")
    for each in group["partitions"]:
        numbers = (str(each[name]) for name in ("partition", "low", "high"))
        committed = "-" if each["committed"] is None else str(each["committed"])
        lines.add(each["topic"], *numbers, committed, str(each["lag"]), each["member"] or "")
    lines.print()


def _print_samples(view: dict[str, Any]) -> None:
    if not view["sample"]:
        return
    lines = Lines("message", "age", "attempts", "task", "job", "reason")
    for sample in view["sample"]:
        lines.add(
            sample["message_id"],
            f"{sample['age_seconds']:.0f} s",
            str(sample["attempts"]),
            (sample["task"] or "")[:CUT],
            str(sample["job_id"] or ""),
            (sample["attributes"].get("reason") or "")[:CUT],
        )
    lines.print()
    counts = ", ".join(f"{count} with {each}" for each, count in view["attempts_histogram"].items())
    _say(f"attempts of these: {counts}")


def _say(text: str) -> None:
    click.echo(clean(text))
