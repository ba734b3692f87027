"""Async stages with time limits, which pools other than prefork refuse."""

from pipeline import stage
from tests.integration.bureau import Answer, Call, act, attempt


@stage(consumes="limited-calls", retries=0, soft_time_limit=1, time_limit=60)
async def ask_briefly(call: Call) -> Answer:
    """Within a second."""
    await act(call, attempt())
    return Answer(key=call.key)


@stage(consumes="killed-calls", retries=0, time_limit=2)
async def ask_within(call: Call) -> Answer:
    """Within two seconds."""
    await act(call, attempt())
    return Answer(key=call.key)
