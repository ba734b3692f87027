"""Capacity: what a job costs at AWS."""

from pipeline.capacity.costs import Step, bill, steps_of
from pipeline.capacity.shape import Shape

__all__ = ["Shape", "Step", "bill", "steps_of"]
