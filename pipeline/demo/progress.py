"""The progress of the demo, from its events, and its display."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from pipeline.errors import InvalidEventError
from pipeline.kafka import EventConsumer, ReceivedRecord
from pipeline.settings import ERRORS_TOPIC, JOBS_TOPIC, Settings
from pipeline.wire.events import Coordinates, Event, decode

EXTRACTED: Final = "document-extracted"
ANALYSED: Final = "document-analysed"
SUMMARISED: Final = "document-summarised"

#: Tasks of one event: an analysis has a split, a gather, and one for each of its chunks.
TASKS: Final = {EXTRACTED: 1, ANALYSED: 2, SUMMARISED: 1}

#: The topics of the example pipeline, in the order of its stages.
STAGES: Final = tuple(TASKS)

#: Seconds between two lines where there is no terminal.
LINE_EVERY = 5.0


@dataclass(kw_only=True)
class Seen:
    """The events of one job."""

    #: The data of its last event.
    summary: dict[str, Any] | None = None
    #: The number of different last events; more than one would be a task that ran twice under two ids.
    summaries: int = 0
    #: Why its task failed.
    failure: str | None = None
    #: When it was extracted and when summarised, in seconds since 1970.
    began: float | None = None
    ended: float | None = None


@dataclass(kw_only=True)
class Progress:
    """The events of all jobs. An event that comes twice counts once."""

    jobs: dict[str, Seen] = field(default_factory=dict)
    #: Different events on each of the stages' topics.
    events: Counter[str] = field(default_factory=Counter)
    tasks: int = 0
    complete: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    #: When the last new event came, on the monotonic clock.
    moved_at: float = field(default_factory=time.monotonic)
    _ids: set[tuple[str, str]] = field(default_factory=set)

    @property
    def ended(self) -> int:
        """The number of jobs that have ended."""
        return len(self.complete | self.failed)

    @property
    def unread(self) -> int:
        """How many complete jobs' last events, or failed ones' reasons, have not been read yet."""
        return sum(self.jobs[job_id].summary is None for job_id in self.complete) + sum(
            self.jobs[job_id].failure is None for job_id in self.failed - self.complete
        )

    def take(self, event: Event) -> None:
        """Count an event."""
        if (event.source, event.id) in self._ids or event.job_id is None:
            return
        self._ids.add((event.source, event.id))
        self.moved_at = time.monotonic()
        job = self.jobs.setdefault(event.job_id, Seen())
        if event.type in TASKS:
            self._take_stage(event, job)
        elif event.type == "job-complete":
            self.complete.add(event.job_id)
        elif event.type == "job-failed":
            self.failed.add(event.job_id)
        elif event.type == "task-failed":
            error = json.loads(event.data)
            job.failure = f"{error['error']}: {error['message']}"

    def _take_stage(self, event: Event, job: Seen) -> None:
        self.events[event.type] += 1
        self.tasks += TASKS[event.type]
        if event.type == EXTRACTED:
            job.began = event.time.timestamp()
        elif event.type == ANALYSED:
            self.tasks += int(json.loads(event.data)["chunks"])
        else:
            job.ended, job.summary = event.time.timestamp(), json.loads(event.data)
            job.summaries += 1


class Display:
    """Shows finished jobs, events of the stages, tasks/s and failures while the block runs."""

    def __init__(self, console: Console, progress: Progress, jobs: int) -> None:
        self._console = console
        self._progress = progress
        self._jobs = jobs
        self._began = self._printed_at = time.monotonic()
        self._bar = ProgressBar(
            TextColumn("jobs"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=jobs)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self) -> None:
        """Show the present state."""
        self._bar.update(self._task, completed=self._progress.ended, description=self._text())
        now = time.monotonic()
        if self._bar.disable and now - self._printed_at >= LINE_EVERY:
            self._printed_at = now
            self._console.print(f"{self._progress.ended}/{self._jobs} jobs, {self._text()}")

    def _text(self) -> str:
        stages = "  ".join(
            f"{topic.removeprefix('document-')} {self._progress.events[topic]}" for topic in STAGES
        )
        rate = self._progress.tasks / max(time.monotonic() - self._began, 0.001)
        return f"{stages}  {rate:.0f} tasks/s  {len(self._progress.failed)} failed"


class Watch:
    """Reads the topics of the demo."""

    def __init__(self, settings: Settings) -> None:
        topics = [settings.topic(name) for name in (*STAGES, JOBS_TOPIC, ERRORS_TOPIC)]
        self.progress = Progress()
        self._consumer = EventConsumer(
            settings,
            topics,
            f"{settings.service_name}-demo",
        )

    def look(self, seconds: float) -> None:
        """Count new events; wait up to ``seconds`` for some."""
        for message in self._consumer.poll(500, seconds):
            self._take(message)

    def close(self) -> None:
        """Leave the topics."""
        self._consumer.close()

    def _take(self, message: ReceivedRecord) -> None:
        at = Coordinates(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            timestamp_ms=message.timestamp_ms,
        )
        try:
            event = decode(key=message.key, value=message.value, headers=message.headers, coordinates=at)
        except InvalidEventError:
            # Not of this run: only the demo writes to these topics, in this format.
            return
        self.progress.take(event)
