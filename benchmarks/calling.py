"""The stage of the benchmark of async calls, in a module of its own, so that other workers have no loops."""

import asyncio
import time

from pipeline import stage


@stage(consumes="bench-calls", emits="bench-answers")
async def call(seconds: float) -> float:
    """Wait, as for another service; return when that was over."""
    await asyncio.sleep(seconds)
    return time.time()


@stage(consumes="bench-answers")
async def answered(_at: float) -> None:
    """Follow ``call``, so that it does not end its path: each task would close a job."""
