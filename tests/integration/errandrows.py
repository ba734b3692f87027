"""A consumer for the test of each process's rights: named in CONSUMER_MODULES, loaded by nothing else."""

from pipeline import Event, Record, consumer


@consumer("their-lists", emits="lists")
def ordered(record: Record[str]) -> Event[list[str]]:
    """Make a list of one thing, which is too large for SQS and DynamoDB."""
    return Event([record.data.ljust(1_200_000)], entity="others")
