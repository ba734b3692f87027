"""A stage with time limits, which pools other than prefork refuse."""

from pipeline import stage
from tests.integration.workshop import Order, act


@stage(consumes="slow-orders", retries=1, time_limit=2, soft_time_limit=1)
def slow(order: Order) -> None:
    """Ended by the soft limit, or by the hard one when it does not listen."""
    try:
        act(order)
    except Exception:
        if order.do != "sleep":
            raise
        act(order)
