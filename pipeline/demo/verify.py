"""The check of the demo: the pipeline's counts against those of a plain loop in one process.

The loop shares no code with the tasks, on purpose.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.demo.progress import Seen
from pipeline.jobs import Job, JobState


class NotText(Exception):  # noqa: N818 - an answer, as StopIteration is
    """The file is binary, or cannot be read: its job must fail too."""


@dataclass(frozen=True, kw_only=True)
class PlainCounts:
    """The loop's counts of one file, named as in the pipeline's last event."""

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


def differences(
    documents: Mapping[str, Path], jobs: Mapping[str, Job], seen: Mapping[str, Seen]
) -> Iterator[str]:
    """Give each difference as a line.

    All three arguments are by job id: its document, its record (missing while it runs), and its events.
    """
    for job_id in sorted(seen.keys() - documents.keys()):
        yield f"job {job_id} is no document's: each has one job"
    for job_id, path in documents.items():
        job = jobs.get(job_id)
        if job is None:
            yield f"{path}: its job {job_id} has not ended"
            continue
        try:
            plain = count_file(path)
        except NotText as reason:
            if job.state is JobState.COMPLETE:
                yield f"{path}: its job is complete, but the loop refuses it: {reason}"
            continue
        yield from _compare(path, job, seen.get(job_id, Seen()), plain)


def _compare(path: Path, job: Job, seen: Seen, plain: PlainCounts) -> Iterator[str]:
    if job.state is not JobState.COMPLETE:
        yield f"{path}: its job failed ({seen.failure}), the loop counted {plain.words} words"
    elif seen.summary is None:
        yield f"{path}: its job is complete, but its last event is missing"
    else:
        if seen.summaries > 1:
            yield f"{path}: its job has {seen.summaries} different last events"
        for name, counted in _as_json(plain).items():
            value = seen.summary.get(name)
            if value != counted:
                yield f"{path}: {name} is {_short(value)}, the loop counted {_short(counted)}"


def _as_json(plain: PlainCounts) -> dict[str, object]:
    return asdict(plain) | {"top_terms": [list(term) for term in plain.top_terms]}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
