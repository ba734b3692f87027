"""Stages for the test of entities within a job: named in TASK_MODULES, loaded by nothing else."""

import json
import os
import time
from collections.abc import Iterable, Iterator

from pydantic import BaseModel

from pipeline import current_task, stage


class Row(BaseModel):
    """A booking of one customer."""

    customer: str
    number: int


class File(BaseModel):
    """The bookings of a day, of many customers."""

    name: str
    bank: str
    rows: list[Row]


class Booked(BaseModel):
    """A file that is booked."""

    name: str
    bank: str
    count: int


def write(**line: object) -> None:
    """Append a line in one write, so that lines of several processes do not mix."""
    task = current_task()
    assert task is not None
    text = json.dumps({**line, "entity": task.entity_id, "job": task.job_id, "pid": os.getpid()}) + "\n"
    with open(os.environ["BANKING_LOG"], "ab", buffering=0) as log:
        log.write(text.encode())


@stage(consumes="bank-files", emits="bank-booked", ordered=True, entity=lambda booked: booked.bank)
def book(row: Row) -> int:
    """Book a row; a customer's rows must not run beside each other."""
    write(what="begin", number=row.number)
    time.sleep(0.01)
    write(what="end", number=row.number)
    return row.number


@book.split(entity=lambda row: row.customer)
def rows(file: File) -> Iterator[Row]:
    """A part for each row, in the order of the file."""
    yield from file.rows


@book.gather
def booked(file: File, numbers: Iterable[int]) -> Booked:
    """A file is booked when all rows are."""
    return Booked(name=file.name, bank=file.bank, count=len(list(numbers)))


@stage(consumes="bank-booked", ordered=True)
def announce(booked: Booked) -> str:
    """Tell the bank."""
    write(what="announced", file=booked.name)
    return f"{booked.name}: {booked.count}"
