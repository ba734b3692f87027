"""The plan for a rate of jobs: its use, sizes, bottlenecks and price."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.capacity import prices
from pipeline.capacity.bottlenecks import Bottleneck, bottlenecks_of
from pipeline.capacity.shape import Shape
from pipeline.capacity.sizes import BUSY, Sizes, sizes_of
from pipeline.capacity.use import Use, use_of
from pipeline.settings import Settings

HOUR, DAYS_A_MONTH, GB = 3_600, 30, 1e9

#: Days that a job's records are kept unless a setting says otherwise.
DAYS_KEPT: int = Settings.model_fields["job_expiry_days"].default


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan."""

    use: Use
    sizes: Sizes
    bottlenecks: Sequence[Bottleneck]
    #: US dollars for a million jobs; for a million tasks if the mix has no jobs.
    price: Mapping[str, float]


def plan(
    rate: float, mix: Sequence[Shape], *, concurrency: int, region: str, shards: int, by_entity: bool
) -> Plan:
    """Plan for ``rate`` tasks a second of a mix, on workers of ``concurrency`` child processes.

    ``shards``: over how many partitions of the index the service spreads its jobs (DYNAMODB_INDEX_SHARDS).
    ``by_entity``: whether it has the index by entity (DYNAMODB_ENTITY_INDEX_SINCE).
    """
    use = use_of(rate, mix, by_entity=by_entity)
    sizes = sizes_of(mix, use, concurrency)
    bottlenecks = bottlenecks_of(mix, use, sizes, region, shards)
    return Plan(use=use, sizes=sizes, bottlenecks=bottlenecks, price=_price(use))


def _price(use: Use) -> dict[str, float]:
    """Return the price of a million jobs (or tasks)."""
    millions = (use.jobs or use.tasks) / 1e6
    a_second = {
        "DynamoDB writes": (use.writes + use.index_writes + use.entity_writes) * prices.WRITE_UNIT.value,
        "DynamoDB reads": use.reads * prices.READ_UNIT.value,
        "DynamoDB storage": use.stored_bytes / GB * prices.STORAGE.value * DAYS_KEPT / DAYS_A_MONTH,
        "SQS requests": use.billed_requests * prices.SQS_REQUEST.value,
        "CPU": use.cpu / BUSY / HOUR * prices.CPU_HOUR.value,
    }
    return {name: each / millions for name, each in a_second.items()}
