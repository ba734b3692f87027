"""Prices of AWS on demand in US East (N. Virginia), in US dollars. Check them before you rely on a bill.

Free tiers, discounts, data transfer and the hours of Kafka's brokers are not in them.
"""

from typing import Final

from pipeline.capacity.figure import Figure

REGION: Final = "us-east-1"

WRITE_UNIT: Final = Figure(
    value=0.625e-6,
    unit="write request unit of DynamoDB",
    source="https://airbyte.com/data-engineering-resources/dynamodb-pricing",
    date="2025-07-21",
)
READ_UNIT: Final = Figure(
    value=0.125e-6,
    unit="read request unit of DynamoDB",
    source="https://airbyte.com/data-engineering-resources/dynamodb-pricing",
    date="2025-07-21",
)
STORAGE: Final = Figure(
    value=0.25,
    unit="GB and month in DynamoDB's standard table class",
    source="https://airbyte.com/data-engineering-resources/dynamodb-pricing",
    date="2025-07-21",
)
SQS_REQUEST: Final = Figure(
    value=0.50e-6,
    unit="64 KB of a request to a FIFO queue of SQS",
    source="https://cloudburn.io/blog/amazon-sqs-pricing",
    date="2026-03-14",
)
CPU_HOUR: Final = Figure(
    value=0.04048,
    unit="hour of a vCPU of Fargate on Linux, x86",
    source="https://www.clickittech.com/devops/fargate-pricing/",
    date="2026-11-30",
)
