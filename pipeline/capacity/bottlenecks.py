"""Bottlenecks: what limits the rate of a mix of jobs, at which rate, and the way past it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.capacity import measured, quotas
from pipeline.capacity.figure import Figure
from pipeline.capacity.shape import Shape
from pipeline.capacity.sizes import PARTITIONS, Sizes
from pipeline.capacity.use import Use
from pipeline.transport.capacity import RECEIVE_AHEAD
from pipeline.worker.cancelled import units_a_second

#: Seconds that a message is in flight beside its run: received ahead, and settled (an assumption).
HELD = RECEIVE_AHEAD + 0.1

#: Writes to the index's partitions for a job: it joins and leaves the open ones, and joins those of its day.
OPEN_WRITES, CLOSED_WRITES = 2, 1


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """A limit of the rate."""

    name: str
    #: The rate of the mix, in tasks a second, at which it is reached.
    tasks: float
    #: The setting or the change that moves it.
    mend: str
    #: The quota or the measurement behind it.
    figure: Figure


def bottlenecks_of(
    mix: Sequence[Shape], use: Use, sizes: Sizes, region: str, shards: int
) -> list[Bottleneck]:
    """Return the limits of a mix, the lowest first. ``use`` and ``sizes`` are those of one rate.

    ``shards``: of the index (DYNAMODB_INDEX_SHARDS).
    """
    found = [
        Bottleneck(name=name, tasks=use.tasks * most / load, mend=mend, figure=figure)
        for name, load, most, mend, figure in _loads(mix, use, sizes, region, shards)
        if load
    ]
    return sorted(found, key=lambda each: each.tasks)


#: The name of a limit, the load on it, the most that it carries, the mend, and the figure behind it.
Load = tuple[str, float, float, str, Figure]


def _loads(mix: Sequence[Shape], use: Use, sizes: Sizes, region: str, shards: int) -> Iterator[Load]:
    yield from _table(use, sizes, shards)
    yield from _queue(use, region)
    yield from _kafka(use, sizes)
    for shape in mix:
        if shape.entities:
            seconds = shape.run + 1 / measured.ENTITY_TASKS.value
            yield (
                f"{shape.entities:,} ordered entities, one task at a time each",
                use.tasks * _share(shape, mix),
                shape.entities / seconds,
                "Order by a finer entity, or only the stages that need it (@stage(ordered=…)).",
                measured.ENTITY_TASKS,
            )


def _share(shape: Shape, mix: Sequence[Shape]) -> float:
    """Return the share of its tasks among all."""
    return shape.share * shape.tasks / sum(each.share * each.tasks for each in mix)


def _table(use: Use, sizes: Sizes, shards: int) -> Iterator[Load]:
    new, partition = quotas.NEW_TABLE_WRITES, quotas.PARTITION_WRITES
    warm = "Set DYNAMODB_WARM_WRITES before the load comes, or let the load grow over half an hour."
    yield "a new table, until it has grown", use.writes, new.value, warm, new
    yield (
        "the new table's index, until it has grown",
        use.index_writes,
        new.value,
        warm,
        new,
    )
    more = "Raise DYNAMODB_INDEX_SHARDS, once every process knows this setting."
    yield (
        f"open jobs in {shards} partitions of the index",
        use.jobs * OPEN_WRITES,
        shards * partition.value,
        more,
        partition,
    )
    yield (
        f"a day's ended jobs in {shards} partitions of the index",
        use.jobs * CLOSED_WRITES,
        shards * partition.value,
        more,
        partition,
    )
    yield (
        "workers that read the list of cancelled jobs, which is one key",
        sizes.busy_workers * units_a_second(0),
        quotas.PARTITION_READS.value,
        "Run fewer workers with more child processes each. Fewer are possible while many jobs are cancelled.",
        quotas.PARTITION_READS,
    )
    yield (
        "writes of one table",
        use.writes,
        quotas.TABLE_WRITES.value,
        "Ask AWS for a higher quota of the table.",
        quotas.TABLE_WRITES,
    )


def _queue(use: Use, region: str) -> Iterator[Load]:
    more = "Give a stage a queue of its own (@stage(queue=…))."
    requests = quotas.fifo_requests(region)
    # Counted one a message: those of a request are of different groups, so each may be in another partition
    # of the queue.
    yield f"messages of one queue in {region}", use.tasks, requests.value, more, requests
    in_flight = use.running + use.tasks * HELD
    yield "messages in flight of one queue", in_flight, quotas.IN_FLIGHT.value, more, quotas.IN_FLIGHT


def _kafka(use: Use, sizes: Sizes) -> Iterator[Load]:
    yield (
        f"first events in {PARTITIONS} partitions, a bridge each",
        use.busiest_first_events,
        PARTITIONS * measured.FIRST_EVENTS.value,
        "Set TOPIC_PARTITIONS before the topics are made, and run as many bridges.",
        measured.FIRST_EVENTS,
    )
    yield (
        "task events that Flower takes in",
        sizes.task_events,
        measured.FLOWER_EVENTS.value,
        "Set EVENTS_TASKS_PER_SECOND lower: workers then show fewer jobs. Flower falls behind, tasks do not.",
        measured.FLOWER_EVENTS,
    )
    yield (
        "connections to an MSK broker with IAM",
        sizes.connections,
        quotas.MSK_CONNECTIONS.value,
        "Run fewer workers with more child processes each, or another authentication.",
        quotas.MSK_CONNECTIONS,
    )
