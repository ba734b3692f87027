"""What the events tell of the demonstration while it runs."""

import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from config.settings import ERRORS_TOPIC, JOBS_TOPIC, Settings
from pipeline.errors import InvalidEventError
from pipeline.events import Coordinates, Event, decode
from pipeline.kafka import EventConsumer, Message

EXTRACTED: Final = "document-extracted"
ANALYSED: Final = "document-analysed"
SUMMARISED: Final = "document-summarised"

#: Tasks behind one event: an analysis is a split and a gather, and one more for each of its chunks.
TASKS: Final = {EXTRACTED: 1, ANALYSED: 2, SUMMARISED: 1}

#: The topics of the example pipeline, in the order of its stages.
STAGES: Final = tuple(TASKS)


@dataclass(kw_only=True)
class Seen:
    """What was seen of one job."""

    #: The data of its last event.
    summary: dict[str, Any] | None = None
    #: How many different events said so; more than one would be a task that ran twice under two ids.
    summaries: int = 0
    #: Why its task was given up on.
    failure: str | None = None
    #: When it was extracted and when summarised, in seconds since 1970.
    began: float | None = None
    ended: float | None = None


@dataclass(kw_only=True)
class Progress:
    """All that was seen, by job. Events that come twice count once."""

    jobs: dict[str, Seen] = field(default_factory=dict)
    #: Different events on each of the stages' topics.
    events: Counter[str] = field(default_factory=Counter)
    tasks: int = 0
    complete: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    #: When something new was seen last, on the monotonic clock.
    moved_at: float = field(default_factory=time.monotonic)
    _ids: set[tuple[str, str]] = field(default_factory=set)

    @property
    def ended(self) -> int:
        """How many jobs have ended."""
        return len(self.complete | self.failed)

    @property
    def unread(self) -> int:
        """How many complete jobs' last events, or failed ones' reasons, have not been read yet."""
        return sum(self.jobs[job_id].summary is None for job_id in self.complete) + sum(
            self.jobs[job_id].failure is None for job_id in self.failed - self.complete
        )

    def take(self, event: Event) -> None:
        """Take an event into account."""
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


class Watch:
    """Reads the topics of the demonstration."""

    def __init__(self, settings: Settings) -> None:
        topics = [settings.topic(name) for name in (*STAGES, JOBS_TOPIC, ERRORS_TOPIC)]
        self.progress = Progress()
        self._consumer = EventConsumer(
            settings,
            topics,
            f"{settings.service_name}-demo",
            on_assigned=_nothing,
            on_revoked=_nothing,
            on_lost=_nothing,
        )

    def look(self, seconds: float) -> None:
        """Take what came; waits up to ``seconds`` for it."""
        for message in self._consumer.poll(500, seconds):
            self._take(message)

    def close(self) -> None:
        """Leave the topics."""
        self._consumer.close()

    def _take(self, message: Message) -> None:
        at = Coordinates(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            timestamp_ms=message.timestamp_ms,
        )
        try:
            event = decode(key=message.key, value=message.value, headers=message.headers, coordinates=at)
        except InvalidEventError:
            # Not of this run: only this project writes to these topics, in this format.
            return
        self.progress.take(event)


def _nothing(_: Iterable[object]) -> None:
    """Nothing depends on which partitions are ours: each has one reader."""
