"""Loads the stages that TASK_MODULES names: importing a module is what registers its stages."""

import importlib
import pkgutil
from collections.abc import Iterable

from pipeline.errors import ConfigurationError
from pipeline.registry import REGISTRY, Registry


def load_stages(modules: Iterable[str]) -> Registry:
    """Import each module, and all modules of each package; check the stages; return the registry.

    Raises ``ConfigurationError`` for a module that is not there, ``StageDefinitionError`` for a stage
    that cannot work.
    """
    for name in modules:
        _load(name, f"TASK_MODULES names {name!r}, which")
    REGISTRY.check()
    return REGISTRY


def _load(name: str, what: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"{what} cannot be imported: {error}. Install what is missing, or start in the folder it is in."
        ) from error
    for inner in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        if not inner.name.endswith(".__main__"):
            _load(inner.name, f"{what} holds {inner.name!r}, which")
