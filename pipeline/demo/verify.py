"""The check of the demonstration: what the pipeline counted against what a plain loop counts."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from pipeline.demo.plain import NotText, PlainCounts, count_file
from pipeline.demo.progress import Seen
from pipeline.jobs import Job, JobState


def differences(
    documents: Mapping[str, Path], jobs: Mapping[str, Job], seen: Mapping[str, Seen]
) -> Iterator[str]:
    """What differs, one line each; nothing when every document was counted right, or refused by both.

    All three are by job id: its document, its record (missing while it runs), and what its events said.
    """
    for job_id, path in documents.items():
        job = jobs.get(job_id)
        if job is None:
            yield f"{path}: its job {job_id} has not ended"
            continue
        try:
            plain = count_file(path)
        except NotText as reason:
            if job.state is JobState.COMPLETE:
                yield f"{path}: its job is complete, but the loop refused it: {reason}"
            continue
        yield from _compare(path, job, seen.get(job_id, Seen()), plain)


def _compare(path: Path, job: Job, seen: Seen, plain: PlainCounts) -> Iterator[str]:
    if job.state is not JobState.COMPLETE:
        yield f"{path}: its job failed ({seen.failure}), the loop counted {plain.words} words"
    elif seen.summary is None:
        yield f"{path}: its job is complete, but no event came of it"
    else:
        if seen.summaries > 1:
            yield f"{path}: {seen.summaries} different events came of it"
        for name, counted in _as_json(plain).items():
            told = seen.summary.get(name)
            if told != counted:
                yield f"{path}: {name} is {_short(told)}, the loop counted {_short(counted)}"


def _as_json(plain: PlainCounts) -> dict[str, object]:
    return asdict(plain) | {"top_terms": [list(term) for term in plain.top_terms]}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
