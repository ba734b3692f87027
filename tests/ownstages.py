"""The stages of one module alone: a test process has those of every test it ran in its one registry."""

from pipeline.registry import Registry
from pipeline.taskmodules import load_stages


def stages_of(name: str) -> Registry:
    """The registry of a process whose TASK_MODULES is ``name``: a module, or a package with all in it."""
    registry = Registry()
    for stage in load_stages((name,)).by_name.values():
        if f"{stage.function.__module__}.".startswith(f"{name}."):
            registry.add(stage)
    return registry
