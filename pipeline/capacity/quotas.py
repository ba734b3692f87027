"""Quotas of services, as their documents give them: the most that a part of the system may carry."""

from collections.abc import Mapping
from typing import Final

from pipeline.capacity.figure import Figure

_WARM = "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/warm-throughput-scenarios.html"
_TABLES = "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html"
_SQS = "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html"
_MSK = "https://docs.aws.amazon.com/msk/latest/developerguide/limits.html"
_DATE = "2026-11-30"

PARTITION_WRITES: Final = Figure(
    value=1000, unit="write units a second of a DynamoDB partition", source=_WARM, date=_DATE
)
PARTITION_READS: Final = Figure(
    value=3000, unit="read units a second of a DynamoDB partition", source=_WARM, date=_DATE
)
NEW_TABLE_WRITES: Final = Figure(
    value=4000,
    unit="write units a second of a new on-demand table, and of its index",
    source=_WARM,
    date=_DATE,
)
TABLE_WRITES: Final = Figure(
    value=40_000, unit="write units a second of an on-demand table (adjustable)", source=_TABLES, date=_DATE
)
IN_FLIGHT: Final = Figure(value=120_000, unit="messages in flight of a FIFO queue", source=_SQS, date=_DATE)
MSK_CONNECTIONS: Final = Figure(
    value=3000, unit="connections of an MSK broker with IAM", source=_MSK, date=_DATE
)
MSK_NEW_CONNECTIONS: Final = Figure(
    value=100, unit="new connections a second of an MSK broker with IAM", source=_MSK, date=_DATE
)

#: Requests a second of each operation on a FIFO queue of high throughput, by region.
_FIFO_REQUESTS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("us-east-1", "us-west-2", "eu-west-1"), 70_000),
    **dict.fromkeys(("us-east-2", "eu-central-1"), 19_000),
    **dict.fromkeys(("ap-south-1", "ap-southeast-1", "ap-southeast-2", "ap-northeast-1"), 9_000),
    **dict.fromkeys(("eu-west-2", "sa-east-1"), 4_500),
}
_ELSEWHERE: Final = 2_400


def fifo_requests(region: str) -> Figure:
    """Return the requests a second of each operation on a FIFO queue in a region."""
    return Figure(
        value=_FIFO_REQUESTS.get(region, _ELSEWHERE),
        unit=f"requests a second of each operation on a FIFO queue in {region}",
        source=_SQS,
        date=_DATE,
    )
