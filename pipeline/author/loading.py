"""Loading of stages and consumers: imports their modules, which registers them."""

import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from pipeline.author.registry import REGISTRY, Registry
from pipeline.errors import ConfigurationError, PipelineError

#: The packages of a service that names none. That of consumers may be missing; it goes with that of stages,
#: as its events are those of these stages.
DEFAULT_TASKS, DEFAULT_CONSUMERS = "tasks", "consumers"

#: Characters of another library's error that a message quotes.
QUOTED = 300


def load_stages(
    modules: Iterable[str], folder: Path | None = None, consumers: Iterable[str] | None = ()
) -> Registry:
    """Import each module, and all modules of each package; check the stages; return the registry.

    ``consumers``: the modules of consumers; None for ``consumers`` beside ``tasks``, if there is one.
    ``folder`` becomes the first entry of ``sys.path`` and stays there, for imports of running stages. With
    DJANGO_SETTINGS_MODULE set, Django is set up first, as Celery does it in a worker. Raises
    ``ConfigurationError`` for a module that cannot be imported, ``StageDefinitionError`` for a stage that
    cannot work.
    """
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    set_up_django()
    modules = tuple(modules)
    for name in modules:
        _load(name, f"TASK_MODULES names {name!r}, which", "TASK_MODULES (default: tasks)")
    if consumers is None:
        is_there = DEFAULT_TASKS in modules and importlib.util.find_spec(DEFAULT_CONSUMERS)
        consumers = [DEFAULT_CONSUMERS] if is_there else []
    for name in consumers:
        _load(name, f"CONSUMER_MODULES names {name!r}, which", "CONSUMER_MODULES")
    REGISTRY.check()
    return REGISTRY


def set_up_django() -> None:
    """Load the apps of a Django project, which its models need; do nothing without one, or without Django."""
    settings = os.environ.get("DJANGO_SETTINGS_MODULE")
    if not settings or importlib.util.find_spec("django") is None:
        return
    try:
        importlib.import_module("django").setup()
    except (Exception, SystemExit) as error:
        raise import_error(f"DJANGO_SETTINGS_MODULE names {settings!r}, whose apps", error) from error


def import_error(subject: str, error: BaseException) -> ConfigurationError:
    """Return the error for modules that cannot be imported, as one line with the cause and its place."""
    text = " ".join(str(error).split())
    text = text if len(text) <= QUOTED else f"{text[:QUOTED]}…"
    if isinstance(error, ImportError):
        advice = "Install what is missing, or start in the folder it is in."
        return ConfigurationError(f"{subject} cannot be imported: {text}. {advice}")
    places = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and frame.filename not in (__file__, importlib.__file__)
    ]
    place = f" ({places[-1].filename}, line {places[-1].lineno})" if places else ""
    cause = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return ConfigurationError(f"{subject} cannot be imported: {cause}{place}")


def _load(name: str, subject: str, setting: str) -> None:
    try:
        module = importlib.import_module(name)
    except PipelineError:
        # Its message names the stage, or the setting.
        raise
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise import_error(subject, error) from error
        raise ConfigurationError(
            f"{subject} is not there: no module {error.name!r} in {Path.cwd()}, and none is installed. "
            f"Name your own packages in {setting}, or start in the folder they are in."
        ) from error
    except (Exception, SystemExit) as error:
        raise import_error(subject, error) from error
    for inner in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        if not inner.name.endswith(".__main__"):
            _load(inner.name, f"{subject} holds {inner.name!r}, which", setting)
