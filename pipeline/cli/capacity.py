"""``pipeline capacity``: what a rate of jobs takes, what limits it first, and what a million jobs cost."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from pipeline.capacity import Plan, Shape, plan
from pipeline.cli.options import Duration
from pipeline.cli.output import Lines, echo, print_json
from pipeline.settings import FEWEST_SHARDS, MOST_SHARDS
from pipeline.sqs import MAX_MESSAGE_BYTES

#: The bottlenecks that are printed; --json has all.
PRINTED = 3

#: What a kind of job may be made of, and the least and the most of it.
NUMBERS: Mapping[str, tuple[int, float]] = {
    "stages": (0, 1_000),
    "parts": (0, 1e9),
    "entities": (0, 1e9),
    "size": (0, MAX_MESSAGE_BYTES),
    "share": (0, 1e9),
}
EXAMPLE = "stages=3,parts=100,entities=50,run=2s,size=500,share=4"

MEGABYTE = 1e6


class Kind(click.ParamType[Shape]):
    """A kind of job, written as numbers with their names."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shape:
        """Return the shape; fail with the name that is wrong, and an example."""
        if isinstance(value, Shape):
            return value
        fields: dict[str, Any] = {}
        for text in str(value).split(","):
            name, equals, number = text.strip().partition("=")
            if name in fields:
                self.fail(f"{name} is given twice in {value!r}.", param, ctx)
            if name == "run" and equals:
                fields[name] = Duration().convert(number, param, ctx)
            elif name in NUMBERS and equals:
                fields[name] = self._number(name, number, param, ctx)
            else:
                self.fail(f"{text.strip()!r} is no number of a job. Write {EXAMPLE}, or less.", param, ctx)
        shape = Shape(**fields)
        if shape.is_plain and (shape.parts or shape.entities):
            self.fail("a plain task (stages=0) has no parts and no entities.", param, ctx)
        return shape

    def _number(
        self, name: str, text: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        least, most = NUMBERS[name]
        number = float(text) if re.fullmatch(r"\d+(\.\d+)?" if name == "share" else r"\d+", text) else -1
        if not least <= number <= most or (name == "share" and number == 0):
            above = "above 0" if name == "share" else f"from {least} to {most:,.0f}"
            self.fail(f"{name}={text}: write a number {above}.", param, ctx)
        return number if name == "share" else int(number)


@click.command(
    short_help="Tell what a rate of jobs takes, what limits it, and its price.",
    epilog="""\b
Examples:
  pipeline capacity --rate 500
  pipeline capacity --rate 10000 --mix stages=3,share=9 --mix stages=4,parts=1000,run=2s,share=1
  pipeline capacity --rate 200 --mix stages=2,entities=50,run=0.1s --concurrency 16
  pipeline capacity --rate 1000 --mix stages=0 --json

Nothing is asked of any service. docs/guides/capacity.md explains the figures.""",
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), required=True, help="Tasks a second.")
@click.option(
    "--mix",
    type=Kind(),
    multiple=True,
    default=("stages=3",),
    show_default=True,
    metavar="KIND",
    help="A kind of job, once for each kind: stages on its path (0: a plain Celery task), parts of a split "
    "of one of them, entities whose tasks are ordered, run time of a task (0.05s), size in bytes of data and "
    "results (200), and its share of all jobs.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Child processes of a worker.",
)
@click.option(
    "--region",
    envvar="AWS_DEFAULT_REGION",
    default="us-east-1",
    show_default=True,
    help="The region, for the quotas of its queues. Prices are those of us-east-1.",
)
@click.option(
    "--shards",
    type=click.IntRange(FEWEST_SHARDS, MOST_SHARDS),
    envvar="DYNAMODB_INDEX_SHARDS",
    default=FEWEST_SHARDS,
    show_default=True,
    help="Partitions of the table's index that jobs are spread over.",
)
@click.option("--entity-index", is_flag=True, help="With the index by entity: DYNAMODB_ENTITY_INDEX_SINCE.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, with all bottlenecks.")
def capacity(
    rate: float,
    mix: tuple[Shape, ...],
    concurrency: int,
    region: str,
    shards: int,
    entity_index: bool,
    as_json: bool,
) -> None:
    """Tell what a rate of jobs takes, what limits it first, and what a million jobs cost.

    Requests and units are those that tests count. Rates of processes were measured. Quotas and prices have a
    source and a date.
    """
    if not math.isfinite(rate):
        raise click.BadParameter("write a number of tasks a second.", param_hint="--rate")
    if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", region):
        raise click.BadParameter(
            f"{region!r} is no region. Write one such as us-east-1.", param_hint="--region"
        )
    made = plan(rate, mix, concurrency=concurrency, region=region, shards=shards, by_entity=entity_index)
    if as_json:
        print_json(_as_json(made, mix, region))
    else:
        _print(made, region)


def _as_json(made: Plan, mix: Sequence[Shape], region: str) -> dict[str, Any]:
    use, sizes = made.use, made.sizes
    return {
        "tasks_per_second": use.tasks,
        "jobs_per_second": use.jobs,
        "region": region,
        "mix": [asdict(shape) for shape in mix],
        "workers": sizes.workers,
        "concurrency": sizes.concurrency,
        "tasks_per_second_of_a_worker": sizes.worker_tasks,
        "bridges": sizes.bridges,
        "partitions_of_a_topic": sizes.partitions,
        "topics_of_stages": sizes.topics,
        "write_units_per_second": use.writes,
        "index_write_units_per_second": use.index_writes,
        "entity_index_write_units_per_second": use.entity_writes,
        "read_units_per_second": use.reads,
        "requests_per_second": dict(use.requests),
        "megabytes_per_second": {name: each / MEGABYTE for name, each in _bytes(made).items()},
        "bottlenecks": [
            {
                "name": each.name,
                "tasks_per_second": each.tasks,
                "mend": each.mend,
                "figure": asdict(each.figure),
            }
            for each in made.bottlenecks
        ],
        "priced": "a million jobs" if use.jobs else "a million tasks",
        "price_in_dollars": {**made.price, "total": sum(made.price.values())},
    }


def _bytes(made: Plan) -> dict[str, float]:
    use = made.use
    return {
        "events on Kafka": use.event_bytes,
        "task events on Kafka": made.sizes.task_event_bytes,
        "messages on SQS": use.message_bytes,
        "kept in DynamoDB": use.stored_bytes,
    }


def _print(made: Plan, region: str) -> None:
    use, sizes = made.use, made.sizes
    echo(f"{use.tasks:,.0f} tasks and {use.jobs:,.1f} jobs a second in {region}\n")
    needed = Lines("needed", "number", "of")
    needed.add(
        "workers",
        f"{sizes.workers:,}",
        f"{sizes.concurrency} child processes, {sizes.worker_tasks:,.0f} tasks a second at most each",
    )
    needed.add("bridges", f"{sizes.bridges:,}", "")
    needed.add("partitions", f"{sizes.partitions:,}", f"each of {sizes.topics} topics of stages")
    needed.print()
    echo("")
    second = Lines("DynamoDB and AWS", "a second")
    second.add("write units", _number(use.writes))
    second.add("write units of the index", _number(use.index_writes))
    if use.entity_writes:
        second.add("write units of the index by entity", _number(use.entity_writes))
    second.add("read units", _number(use.reads))
    for name, number in use.requests.items():
        second.add(f"{name} requests", _number(number))
    for name, number in _bytes(made).items():
        second.add(f"MB of {name}" if "kept" not in name else f"MB {name}", _number(number / MEGABYTE))
    second.print()
    echo("")
    limits = Lines("limit", "tasks a second", "now", "mend", ids=("mend",))
    for each in made.bottlenecks[:PRINTED]:
        limits.add(each.name, f"{each.tasks:,.0f}", "reached" if each.tasks < use.tasks else "", each.mend)
    limits.print()
    echo("")
    price = Lines("a million jobs" if use.jobs else "a million tasks", "US dollars")
    for name, dollars in made.price.items():
        price.add(name, f"{dollars:,.2f}")
    price.add("together", f"{sum(made.price.values()):,.2f}")
    price.print()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
