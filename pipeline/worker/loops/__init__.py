"""The loop children of a worker, as the worker sees them: they run the tasks whose functions are async."""

from pipeline.worker.loops.pool import LoopPool

__all__ = ["LoopPool"]
