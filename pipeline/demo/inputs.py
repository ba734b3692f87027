"""The documents of the demo: files, folders, or the standard library's sources."""

import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.demo.allowed import is_allowed
from pipeline.errors import ConfigurationError

#: These take half a minute on two cores.
LIBRARY_DOCUMENTS = 500

#: Folders of the standard library with tests and installed packages.
_LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests"})
_TEXT = frozenset({".py", ".txt"})


def allowed_by(paths: Sequence[Path]) -> Sequence[Path]:
    """Return what a demo of ``paths`` may read: these; without any, Python's standard library."""
    return paths or [_library()]


def find_documents(paths: Sequence[Path]) -> list[Path]:
    """Return the files of ``paths``, folders searched; without any, sources of Python's standard library.

    Hidden and unreadable files of folders are left out, and links that lead out of them. Raises
    ``ConfigurationError`` for a path that does not exist or has no readable file.
    """
    if not paths:
        return standard_library()
    found: dict[Path, None] = {}
    for path in paths:
        found |= dict.fromkeys(_documents(path))
    return list(found)


def standard_library() -> list[Path]:
    """Return the ``LIBRARY_DOCUMENTS`` largest text files and sources of the running Python."""
    files = [
        file for file in _walk(_library(), leave_out=_LEFT_OUT) if file.suffix in _TEXT and _is_readable(file)
    ]
    return sorted(files, key=lambda file: (-file.stat().st_size, file))[:LIBRARY_DOCUMENTS]


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _documents(path: Path) -> Iterable[Path]:
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist. Give files or folders that do.")
    if path.is_dir():
        files = [file for file in _walk(path.absolute()) if _is_readable(file)]
        if not files:
            raise ConfigurationError(f"{path} has no readable file. Give a folder with files.")
        return files
    if not _is_readable(path):
        raise ConfigurationError(f"{path} cannot be read as a file. Give files that you may read.")
    return [path.absolute()]


def _walk(folder: Path, leave_out: frozenset[str] = frozenset()) -> Iterator[Path]:
    real = folder.resolve()
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in leave_out and not name.startswith("."))
        found = (Path(place, name) for name in sorted(files) if not name.startswith("."))
        yield from (file for file in found if is_allowed(file.resolve(), [real]))


def _is_readable(path: Path) -> bool:
    """Whether it is a readable file whose name fits JSON: a file's name may be any bytes, JSON is Unicode."""
    return path.is_file() and os.access(path, os.R_OK) and str(path).isprintable()
