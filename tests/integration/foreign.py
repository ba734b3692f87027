"""Stages and consumers for tests of topics of others: named in their settings, loaded by nothing else."""

import os
from pathlib import Path

from pydantic import BaseModel

from pipeline import Event, Record, consumer, current_task, stage


class Row(BaseModel):
    """A row of somebody's table of orders."""

    customer: str
    amounts: list[int]


@stage(consumes="amounts", emits="booked", ordered=True)
def book(amount: int) -> int:
    """Double an amount."""
    return 2 * amount


@stage(consumes="booked", ordered=True)
def note(amount: int) -> None:
    """Write the amount into the file of its entity."""
    task = current_task()
    assert task is not None
    with Path(os.environ["NOTES"], task.entity_id).open("a") as file:
        file.write(f"{amount}\n")


@consumer("rows", emits="amounts")
def amounts(record: Record[Row]) -> list[Event[int]] | None:
    """Make an event of each amount of a customer; refuse those of nobody, pass over those without any."""
    if not record.data.customer:
        raise ValueError("a row of nobody")
    if record.data.customer == os.environ.get("BROKEN_FOR"):
        raise SystemExit("a defect")
    return [Event(amount, entity=record.data.customer) for amount in record.data.amounts] or None
