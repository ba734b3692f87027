"""The stages of one module alone, although the test process registers those of every test."""

from pipeline.author.loading import load_stages
from pipeline.author.registry import Registry


def stages_of(name: str) -> Registry:
    """The registry of a process whose TASK_MODULES is ``name``: a module, or a package with all in it."""
    registry = Registry()
    for stage in load_stages((name,)).by_name.values():
        if f"{stage.function.__module__}.".startswith(f"{name}."):
            registry.add(stage)
    return registry
