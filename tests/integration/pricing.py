"""Stages that emit topics with schemas. Named in TASK_MODULES of one test module, loaded by nothing else."""

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, Field

from pipeline import stage


class Order(BaseModel):
    """An order."""

    key: str
    amounts: list[int]


class Price(BaseModel):
    """The price of an order."""

    key: str
    amounts: int
    total: Annotated[Decimal, Field(max_digits=12, decimal_places=2)] | None = None


@stage(consumes="priced-orders", emits="prices", format="avro")
def estimate(order: Order) -> Price:
    """Price an order; the sum may have more than 64 bits."""
    return Price(key=order.key, amounts=sum(order.amounts), total=Decimal(len(order.amounts)))


@stage(consumes="checked-orders", emits="checked-prices", format="avro")
def check(order: Order) -> Price:
    """Price an order for the stage that stores prices."""
    return estimate(order)


@stage(consumes="checked-prices")
def store(price: Price) -> None:
    """Take a price, which a person may submit, too."""


@stage(consumes="counted-orders", emits="counts", format="json-schema")
def tally(order: Order) -> Price:
    """Count the amounts of an order."""
    return Price(key=order.key, amounts=len(order.amounts), total=None)
