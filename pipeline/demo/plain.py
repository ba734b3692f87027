"""The same counts by a plain loop in one process: what the pipeline's result is checked against.

It shares no code with the tasks, on purpose.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


class NotText(Exception):  # noqa: N818 - an answer, as StopIteration is
    """The file is binary, or cannot be read: the job for it must fail too."""


@dataclass(frozen=True, kw_only=True)
class PlainCounts:
    """What the loop counted in one file; the names are those of the pipeline's last event."""

    lines: int
    words: int
    characters: int
    distinct_terms: int
    terms_digest: str
    top_terms: list[tuple[str, int]]


def count_file(path: Path) -> PlainCounts:
    """Count one file, all of it in memory."""
    text = _text(path)
    words = re.findall(r"\w+", text)
    terms = Counter(word[:64].casefold() for word in words)
    listing = "".join(f"{term} {terms[term]}\n" for term in sorted(terms))
    by_frequency = sorted(terms, key=lambda term: (-terms[term], term))
    return PlainCounts(
        lines=len(re.findall(r"[^\n]*\n|[^\n]+", text)),
        words=len(words),
        characters=len(text),
        distinct_terms=len(terms),
        terms_digest=hashlib.sha256(listing.encode()).hexdigest(),
        top_terms=[(term, terms[term]) for term in by_frequency[:50]],
    )


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotText(str(error)) from error
    if b"\0" in data:
        raise NotText(f"{path} holds a zero byte")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
