"""Capacity: what a rate of jobs takes, what limits it first, and what a million jobs cost."""

from pipeline.capacity.costs import Step, bill, steps_of
from pipeline.capacity.plan import Plan, plan
from pipeline.capacity.shape import Shape

__all__ = ["Plan", "Shape", "Step", "bill", "plan", "steps_of"]
