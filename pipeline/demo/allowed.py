"""The files that the demo's stages may read: those of its command line, whatever path an event has."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.errors import ConfigurationError

#: Lists the files and folders that the stages may read, one a line. Without it they read nothing.
VARIABLE = "DEMO_PATHS"

#: Linux passes no longer variable to a process (MAX_ARG_STRLEN).
LONGEST = 128 * 1024


def variable_of(paths: Iterable[Path]) -> str:
    """Return the value of DEMO_PATHS for these files and folders."""
    value = "\n".join(str(path.resolve()) for path in paths)
    if len(f"{VARIABLE}={value}".encode()) >= LONGEST:
        raise ConfigurationError("There are too many paths. Give the folder that the files are in.")
    return value


def allowed_paths() -> Sequence[Path]:
    """Return the files and folders that this process may read."""
    return [Path(line) for line in os.environ.get(VARIABLE, "").split("\n") if line]


def is_allowed(path: Path, allowed: Iterable[Path]) -> bool:
    """Whether ``path``, free of symbolic links, is one of ``allowed`` or below one, and not hidden in it."""
    return any(
        not any(part.startswith(".") for part in path.relative_to(each).parts)
        for each in allowed
        if path.is_relative_to(each)
    )
