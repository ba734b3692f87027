"""Loads the Celery app that ``-A`` names, as a worker does, without connecting to anything."""

import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from celery import Celery
from celery.app.utils import find_app

from pipeline.errors import ConfigurationError
from pipeline.settings import load_settings

#: Stand for what the environment does not set: a check of an app with ``pipeline.install`` needs no services.
_STAND_INS: Final = {
    "SERVICE_NAME": "check",
    "KAFKA_BOOTSTRAP_SERVERS": "localhost:9092",
    "KAFKA_CONSUMER_GROUP": "check",
    "SQS_TASK_QUEUE_URL": "http://localhost:9324/000000000000/check.fifo",
    "SQS_DLQ_URL": "http://localhost:9324/000000000000/check-dlq.fifo",
}


def load_app(name: str) -> Celery:
    """Return the app of ``-A name``, with its tasks.

    Raises ``ConfigurationError``, with what to change, where there is none or its code raises.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        _import(name.partition(":")[0])
        app = find_app(name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(_not_found(name, error)) from error
    except AttributeError as error:
        if _raised_by_code(error):
            raise ConfigurationError(_broken(name, error)) from error
        raise ConfigurationError(_no_app(name)) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ConfigurationError(_broken(name, error)) from error
    if not isinstance(app, Celery):
        raise ConfigurationError(_no_app(name))
    if hasattr(app, "pipeline"):
        app.pipeline.settings = load_settings({**_STAND_INS, **os.environ})
    _load_tasks(name, app)
    return app


def _import(module: str) -> None:
    """Import it first: where its code raises AttributeError, Celery looks for a module of another name."""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise  # ``module`` may be an attribute of one


def _load_tasks(name: str, app: Celery) -> None:
    try:
        app.finalize()
        # The loader's own: that of an app with ``pipeline.install`` loads stages, too.
        type(app.loader).import_default_modules(app.loader)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ConfigurationError(_broken(f"the task modules of {name}", error)) from error


def registered_tasks(app: Celery) -> dict[str, Any]:
    """Return the app's own tasks by name, without Celery's and this project's."""
    return {
        name: task
        for name, task in sorted(app.tasks.items())
        if not name.startswith(("celery.", "pipeline."))
    }


def sources_of(app: Celery) -> list[Path]:
    """Return the packages and modules below the working folder that hold the app and its tasks."""
    here = Path.cwd()
    modules = {app.main or "", *(task.__module__ for task in registered_tasks(app).values())}
    modules |= {module for module in sys.modules if vars(sys.modules[module]).get("app") is app}
    found = set()
    for name in {module.partition(".")[0] for module in modules}:
        module = sys.modules.get(name)
        places = list(getattr(module, "__path__", ())) or [getattr(module, "__file__", None) or ""]
        found |= {Path(place) for place in places if place and _is_code(place)}
    return sorted(path for path in found if path.is_relative_to(here))


def _not_found(name: str, error: ModuleNotFoundError) -> str:
    module = name.partition(":")[0]
    if error.name and (module == error.name or module.startswith(f"{error.name}.")):
        return (
            f"There is no module {error.name!r}, which -A {name} names. Run this in the folder that holds "
            "it, or add that folder to PYTHONPATH."
        )
    return f"{_raised(name, error)}. Install it, or run this with the Python of the project."


def _no_app(name: str) -> str:
    return f"-A {name} names no Celery app. Name the module and the variable, for example -A proj.celery:app."


def _broken(name: str, error: BaseException) -> str:
    return (
        f"{_raised(name, error)}. The check imports the app as a worker does: give it the same environment "
        "(for Django DJANGO_SETTINGS_MODULE)."
    )


def _raised(name: str, error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_code(frame.filename)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"Importing {name} raised {type(error).__name__}: {error}{where}"


def _raised_by_code(error: AttributeError) -> bool:
    """Whether the app's own code raised it, and not the search for the app in its module."""
    return any(_is_code(frame.filename) for frame in traceback.extract_tb(error.__traceback__))


def _is_code(filename: str) -> bool:
    """Whether a file is no part of Python, of an installed package or of this project."""
    return not (filename.startswith("<") or "site-packages" in filename or _in_library(filename))


def _in_library(filename: str) -> bool:
    here, library = str(Path(__file__).parents[1]), str(Path(traceback.__file__).parent)
    return filename.startswith((here, library))
