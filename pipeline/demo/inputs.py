"""Which files the demonstration takes as documents."""

import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.errors import ConfigurationError

#: As many as are done in half a minute on two cores.
LIBRARY_DOCUMENTS = 500

#: Folders of the standard library that hold its tests and other people's packages.
_LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests"})
_TEXT = frozenset({".py", ".txt"})


def find_documents(paths: Sequence[Path]) -> list[Path]:
    """The files named by ``paths``, folders searched; without any, sources of Python's standard library.

    Hidden files and what cannot be read are left out of folders. Raises ``ConfigurationError`` for a path
    that does not exist or gives no file.
    """
    if not paths:
        return standard_library()
    found: dict[Path, None] = {}
    for path in paths:
        found |= dict.fromkeys(_documents(path))
    return list(found)


def standard_library() -> list[Path]:
    """Text files and sources of the running Python, the largest ``LIBRARY_DOCUMENTS`` of them."""
    files = [
        file
        for file in _walk(Path(sysconfig.get_path("stdlib")), leave_out=_LEFT_OUT)
        if file.suffix in _TEXT and _is_readable(file)
    ]
    return sorted(files, key=lambda file: (-file.stat().st_size, file))[:LIBRARY_DOCUMENTS]


def _documents(path: Path) -> Iterable[Path]:
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist: name files or folders that do.")
    if path.is_dir():
        files = [file for file in _walk(path.absolute()) if _is_readable(file)]
        if not files:
            raise ConfigurationError(f"{path} holds nothing readable: name a folder with files in it.")
        return files
    if not _is_readable(path):
        raise ConfigurationError(f"{path} cannot be read as a file: name files that you may read.")
    return [path.absolute()]


def _walk(folder: Path, leave_out: frozenset[str] = frozenset()) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in leave_out and not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _is_readable(path: Path) -> bool:
    """Whether it is a file to read whose name an event can hold: JSON is Unicode, a file's name any bytes."""
    return path.is_file() and os.access(path, os.R_OK) and str(path).isprintable()
