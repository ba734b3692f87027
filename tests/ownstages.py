"""The stages of one module alone, although the test process registers those of every test."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.author.loading import load_stages
from pipeline.author.registry import REGISTRY, Registry


def stages_of(name: str) -> Registry:
    """The registry of a process whose TASK_MODULES is ``name``: a module, or a package with all in it."""
    registry = Registry()
    for stage in load_stages((name,)).by_name.values():
        if f"{stage.function.__module__}.".startswith(f"{name}."):
            registry.add(stage)
    return registry


@contextmanager
def stages_alone(name: str) -> Iterator[Registry]:
    """The same, and what was registered before is registered again at the end.

    For stages whose topics have schemas: other tests of this process may provision without a registry.
    """
    before = dict(REGISTRY._stages)
    try:
        yield stages_of(name)
    finally:
        REGISTRY._stages.clear()
        REGISTRY._stages.update(before)
        del sys.modules[name]
