"""A task module with lazy annotations, whose stage stands above the classes it uses."""

from __future__ import annotations

from pydantic import BaseModel

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry

REGISTRY = Registry()


@stage(consumes="a", emits="b", registry=REGISTRY)
def early(data: Outer) -> Later:
    """Take the inner value out."""
    return data.later


class Outer(BaseModel):
    """Names a class that comes after it."""

    later: Later


class Later(BaseModel):
    """The last to be defined."""

    value: int
