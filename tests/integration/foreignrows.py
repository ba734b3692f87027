"""Consumers for tests of topics of others: named in CONSUMER_MODULES, loaded by nothing else."""

import os

from pydantic import BaseModel

from pipeline import Event, Record, consumer


class Row(BaseModel):
    """A row of somebody's table of orders."""

    customer: str
    amounts: list[int]


@consumer("rows", emits="amounts")
def amounts(record: Record[Row]) -> list[Event[int]] | None:
    """Make an event of each amount of a customer; refuse those of nobody, pass over those without any."""
    if not record.data.customer:
        raise ValueError("a row of nobody")
    if record.data.customer == os.environ.get("BROKEN_FOR"):
        raise SystemExit("a defect")
    return [Event(amount, entity=record.data.customer) for amount in record.data.amounts] or None
