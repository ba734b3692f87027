"""The demo's parts: choice of documents, progress from events, and a check that can fail."""

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.author import decorator
from pipeline.author.registry import Registry
from pipeline.demo.changes import CONSUMER, CONSUMER_MODULE, TOPIC, creation, event_id
from pipeline.demo.inputs import find_documents, standard_library
from pipeline.demo.progress import Progress, Seen
from pipeline.demo.report import Report
from pipeline.demo.verify import count_file, differences
from pipeline.errors import ConfigurationError
from pipeline.jobs import Job, JobPlan, JobState
from pipeline.wire.events import Coordinates, Event, source_of

# ─── which documents ───


def test_the_default_is_the_standard_library() -> None:
    """At least 200 documents, larger than a chunk some of them, on any Python."""
    files = standard_library()
    assert len(files) >= 200
    assert files[0].stat().st_size > 64 * 1024
    assert find_documents([]) == files


def test_folders_are_searched(tmp_path: Path) -> None:
    """All files below, without hidden ones, each once, in one order."""
    for name in ("b/two.bin", "a.txt", ".hidden", ".git/config", "b/__pycache__/c.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    os.mkfifo(tmp_path / "pipe")
    found = find_documents([tmp_path, tmp_path / "a.txt"])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "a.txt",
        "b/two.bin",
        "b/__pycache__/c.pyc",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "missing does not exist"),
        ("empty", "empty has no readable file"),
        ("pipe", "pipe cannot be read as a file"),
    ],
)
def test_paths_that_give_no_document(tmp_path: Path, name: str, said: str) -> None:
    """One clear line with the path and the mend."""
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "good.txt").write_text("x")
    with pytest.raises(ConfigurationError) as caught:
        find_documents([tmp_path / "good.txt", tmp_path / name])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_no_event_can_hold_is_left_out(tmp_path: Path) -> None:
    """A file's name may be any bytes, JSON may not."""
    (tmp_path / "good").write_text("x")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")).write_text("x")
    assert find_documents([tmp_path]) == [tmp_path / "good"]


def test_a_link_that_leads_out_of_the_folder_is_left_out(tmp_path: Path) -> None:
    """The stages would refuse it: the folder was given, not what it points at."""
    (tmp_path / "given").mkdir()
    for name in ("given/text", "outside"):
        (tmp_path / name).write_text("x")
    (tmp_path / "given" / "in").symlink_to("text")
    (tmp_path / "given" / "out").symlink_to(tmp_path / "outside")
    assert find_documents([tmp_path / "given"]) == [tmp_path / "given" / name for name in ("in", "text")]


# ─── changes of a table ───


MakeEvents = Callable[[dict[str, Any], int], list[Event]]


@pytest.fixture
def made_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeEvents]:
    """Return what makes events of a change and its offset: the demo's consumer, as the bridge asks it."""
    # In a registry of its own: other tests of this process load the demo's stages without it.
    importlib.import_module("pipeline.demo.documents")
    monkeypatch.setattr(decorator, "REGISTRY", registry := Registry())
    importlib.import_module(CONSUMER_MODULE)

    def make(change: dict[str, Any], offset: int) -> list[Event]:
        at = Coordinates(topic=TOPIC, partition=0, offset=offset, timestamp_ms=1)
        record = replace(event(TOPIC, change, id=str(offset)), coordinates=at)
        [made] = registry.consumers_on(TOPIC)
        return made.make_events("demo", record, key=b'{"id":7}', headers=[])

    yield make
    del sys.modules[CONSUMER_MODULE]


def test_a_new_row_is_one_job_however_often_it_comes(made_of: MakeEvents, tmp_path: Path) -> None:
    """Debezium may write a change twice. The ids are those by which the demo looks for its jobs."""
    change = creation(7, tmp_path / "größer.txt")
    [first], [second] = made_of(change, 1), made_of(change, 2)
    assert first == replace(second, coordinates=first.coordinates)
    assert (first.source, first.id) == (source_of("demo", CONSUMER), event_id(7))
    assert json.loads(first.data) == {"path": str(tmp_path / "größer.txt")}


@pytest.mark.parametrize("operation", ["u", "d", "r"])
def test_other_changes_are_passed_over(made_of: MakeEvents, tmp_path: Path, operation: str) -> None:
    """An update, a delete and a snapshot start no job."""
    change = creation(7, tmp_path)
    assert made_of(change | {"op": operation, "before": change["after"]}, 1) == []


# ─── what the events tell ───


def event(kind: str, data: Any = None, **fields: Any) -> Event:
    made = Event(
        id=f"{kind}-1",
        source="/s",
        type=kind,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        entity_id="e",
        data=json.dumps(data).encode(),
        job_id="j",
    )
    return replace(made, **fields)


def test_tasks_are_counted_from_events() -> None:
    """An extraction, a split, its chunks, a gather and a summary."""
    progress = Progress()
    progress.take(event("document-extracted"))
    progress.take(event("document-analysed", {"chunks": 7}))
    progress.take(event("document-summarised", {"words": 3}))
    assert progress.tasks == 1 + 1 + 7 + 1 + 1
    assert progress.jobs["j"].summary == {"words": 3}


def test_an_event_that_comes_twice_counts_once() -> None:
    """Delivery is at least once."""
    progress = Progress()
    for _ in range(3):
        progress.take(event("document-summarised", {}))
        progress.take(event("job-complete"))
    assert (progress.tasks, progress.ended, progress.jobs["j"].summaries) == (1, 1, 1)


def test_two_events_for_one_result_are_seen() -> None:
    """A task that ran under two ids would be a fault, not a repetition."""
    progress = Progress()
    progress.take(event("document-summarised", {}))
    progress.take(event("document-summarised", {}, id="another"))
    assert progress.jobs["j"].summaries == 2


def test_a_failure_keeps_its_reason() -> None:
    """The report lists the failures of the errors topic."""
    progress = Progress()
    progress.take(event("job-failed"))
    assert progress.unread == 1
    progress.take(event("task-failed", {"error": "PermanentError", "message": "it is binary"}))
    assert (progress.ended, progress.unread) == (1, 0)
    assert progress.jobs["j"].failure == "PermanentError: it is binary"


# ─── the check ───


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document"
    path.write_text("one two two\n")
    return path


def right(path: Path) -> Seen:
    """Return the events of a document that was processed without failure."""
    return Seen(summary=json.loads(json.dumps({**asdict(count_file(path)), "chunks": 1})), summaries=1)


def job(state: JobState = JobState.COMPLETE) -> Job:
    return Job(
        job_id="j",
        state=state,
        entity_id="e",
        topic="t",
        plan=JobPlan(stages={}),
        submitted_at=0,
        updated_at=0,
    )


def check(path: Path, seen: Seen, state: JobState | None = JobState.COMPLETE) -> list[str]:
    return list(differences({"j": path}, {"j": job(state)} if state else {}, {"j": seen}))


def test_the_same_counts_are_no_difference(document: Path) -> None:
    """Nothing to report."""
    assert check(document, right(document)) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("words", 4),
        ("lines", 2),
        ("characters", 0),
        ("distinct_terms", 3),
        ("terms_digest", "0"),
        ("top_terms", [["two", 1], ["one", 1]]),
    ],
)
def test_every_count_is_checked(document: Path, name: str, value: Any) -> None:
    """A difference in any of them is named, with both values."""
    seen = right(document)
    assert seen.summary is not None
    seen.summary[name] = value
    (line,) = check(document, seen)
    assert f"{document}: {name} is {value}, the loop counted" in line


def faults(path: Path) -> Iterator[tuple[Seen, JobState | None, str]]:
    yield Seen(failure="E: why"), JobState.FAILED, "its job failed (E: why), the loop counted 3 words"
    yield Seen(), JobState.COMPLETE, "its job is complete, but its last event is missing"
    yield right(path), None, "its job j has not ended"
    twice = right(path)
    twice.summaries = 2
    yield twice, JobState.COMPLETE, "its job has 2 different last events"


def test_what_is_missing_or_twice_is_a_difference(document: Path) -> None:
    """A failed job, a lost event, a job that hangs, a result made twice."""
    for seen, state, said in faults(document):
        (line,) = check(document, seen, state)
        assert said in line


def test_a_job_of_no_document_is_a_difference(document: Path) -> None:
    """A document that came twice and was counted twice."""
    seen = {"j": right(document), "k": right(document)}
    (line,) = differences({"j": document}, {"j": job()}, seen)
    assert line == "job k is no document's: each has one job"


def test_a_binary_document_fails_in_both(tmp_path: Path) -> None:
    """Refused by the pipeline and by the loop is the same result; counted by one of them is not."""
    path = tmp_path / "binary"
    path.write_bytes(b"\0")
    assert check(path, Seen(failure="E: it is binary"), JobState.FAILED) == []
    (line,) = check(path, Seen(summary={}, summaries=1))
    assert "but the loop refuses it" in line


# ─── the report ───


def report(document: Path, *found: str) -> Report:
    seen = right(document)
    seen.began, seen.ended = 1.0, 3.5
    progress = Progress(jobs={"j": seen, "k": Seen(failure="E: [red]bad")}, failed={"k"}, tasks=10)
    return Report(
        services="embedded",
        documents={"j": document, "k": document},
        progress=progress,
        jobs_completed=1,
        jobs_failed=1,
        seconds=4.0,
        differences=found,
    )


def test_the_json_report_is_pinned(document: Path) -> None:
    """Scripts read these names."""
    assert report(document).fields() == {
        "services": "embedded",
        "documents": 2,
        "chunks": 1,
        "words": 3,
        "jobs_completed": 1,
        "jobs_failed": 1,
        "verified": True,
        "seconds": 4.0,
        "tasks_per_second": 2.5,
    }


def test_the_report_says_all_that_a_person_asks(document: Path) -> None:
    """Counts, top terms, slowest documents, failures with their reason as it is, and the verdict."""
    out = StringIO()
    report(document).print(Console(file=out, width=80))
    text = out.getvalue()
    for said in ("2 documents, 1 chunks", "3 words", "two 2, one 1", f"2.50 s     1 chunks  {document}"):
        assert said in text
    assert f"{document}: E: [red]bad" in text
    assert "Verified" in text


def test_the_report_says_what_differs(document: Path) -> None:
    """Each difference up to ten, then how many more."""
    out = StringIO()
    report(document, *(f"difference {number}." for number in range(13))).print(Console(file=out, width=80))
    assert "NOT verified" in out.getvalue()
    assert "difference 9." in out.getvalue()
    assert "difference 10." not in out.getvalue()
    assert "and 3 more" in out.getvalue()
