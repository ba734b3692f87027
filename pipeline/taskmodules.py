"""Loads the stages that TASK_MODULES names: importing a module is what registers its stages."""

import importlib
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import ConfigurationError
from pipeline.registry import REGISTRY, Registry


def load_stages(modules: Iterable[str], folder: Path | None = None) -> Registry:
    """Import each module, and all modules of each package; check the stages; return the registry.

    ``folder`` is looked into first and stays on ``sys.path``, for what stages import while they run.
    Raises ``ConfigurationError`` for a module that is not there, ``StageDefinitionError`` for a stage
    that cannot work.
    """
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
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
