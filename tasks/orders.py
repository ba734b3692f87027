"""Price an order, line by line."""

from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import BaseModel, Field

from pipeline import PermanentError, current_task, stage

# It becomes part of a file's name, so an event cannot make a path of it.
Customer = Annotated[str, Field(pattern=r"^\w{1,50}$")]


class Line(BaseModel):
    """One line of an order."""

    article: str
    amount: int


class Order(BaseModel):
    """The data of an event on ``order-placed``."""

    customer: Customer
    lines: list[Line]


class Bill(BaseModel):
    """The data of an event on ``order-priced``."""

    customer: Customer
    total: int
    entity: str


@stage(consumes="order-placed", emits="order-priced", retries=0)
def price(line: Line) -> int:
    """Return the price of one line. Each line is a task of its own."""
    if line.amount < 0:
        raise PermanentError(f"{line.article}: nobody can order {line.amount}")
    return 10 * line.amount


@price.split
def lines(order: Order) -> Iterator[Line]:
    """Divide an order into its lines."""
    yield from order.lines


@price.gather
def bill(order: Order, prices: Iterable[int]) -> Bill:
    """Make the bill, once all lines are priced."""
    task = current_task()
    return Bill(customer=order.customer, total=sum(prices), entity=task.entity_id if task else "")
