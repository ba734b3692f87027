"""Examination: one run's look at idle jobs, which closes and records what can be, and judges the others."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import structlog

from pipeline.author.registry import Registry
from pipeline.deadletters.awaited import UnknownTasksError, find_awaited
from pipeline.deadletters.finding import Finding
from pipeline.deadletters.knownletters import KnownLetters
from pipeline.deadletters.letter import Filter
from pipeline.deadletters.listing import Listing
from pipeline.deadletters.probes import Probes
from pipeline.deadletters.traffic import Traffic, read_traffic
from pipeline.errors import PipelineError, ServiceError
from pipeline.jobs import TOGETHER, Closing, Job, JobState, JobStore, Look, SplitFilled
from pipeline.ledger import Ledger
from pipeline.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Missing:
    """A job of which nothing was seen on its queues and topics."""

    state: Hashable
    where: str
    #: Others' tasks or events are on them: its own markers were received.
    probed: bool


class Examination:
    """The examination of one run. It reads the queues and topics once, when a job first needs that."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: JobStore,
        ledger: Ledger,
        letters: KnownLetters,
        probes: Probes,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._ledger = ledger
        self._letters = letters
        self._probes = probes
        self._missing: dict[str, _Missing] = {}

    def of(self, jobs: Sequence[Job], *, watch: bool = False) -> Iterator[Finding]:
        """Yield what was found of idle jobs, ``TOGETHER`` at most; nothing yet of those that may be lost.

        ``watch``: begin to watch those whose tasks may be among others' on their queues.
        """
        for job, look in zip(jobs, self._store.looks.at(jobs), strict=True):
            try:
                if isinstance(look, PipelineError):
                    raise look
                finding = self._examine(look, watch)
            except PipelineError as error:
                finding = Finding(kind="failed", job_id=job.job_id, text=str(error))
            if finding is not None:
                yield finding

    @property
    def suspects(self) -> int:
        """How many jobs may be lost, which ``judge`` finds out."""
        return len(self._missing)

    def judge(self) -> Iterator[Finding]:
        """Find out which of those jobs have dead letters; the others are lost, if all letters can be seen.

        All are looked at once more, after everything else was read: one that moved meanwhile lives.
        """
        missing, self._missing = self._missing, {}
        if not missing:
            return
        traffic = read_traffic(self._settings, self._registry)
        with Listing(self._settings, Filter(place="kafka")) as listing:
            rejected = listing.jobs_with_events(missing)
        unseen = self._letters.unseen()
        for job, look in self._look_again(list(missing)):
            found = missing[job.job_id]
            if isinstance(look, PipelineError):
                yield Finding(kind="failed", job_id=job.job_id, text=str(look))
            elif look.state == found.state:
                yield self._verdict(look, found, traffic, job.job_id in rejected, unseen)

    @cached_property
    def _traffic(self) -> Traffic:
        return read_traffic(self._settings, self._registry)

    def _words(self, look: Look, traffic: Traffic) -> str:
        return traffic.of(self._settings, self._registry, (stage.stage for stage in look.unfinished))

    def _examine(self, look: Look, watch: bool) -> Finding | None:
        job_id = look.job.job_id
        if look.may_owe and (closings := self._store.resumption.resume(job_id)):
            return self._close(job_id, closings)
        recorded = self._record(job_id)
        if recorded is not None:
            return recorded
        where = _progress(look)
        words = self._words(look, self._traffic)
        is_gone = bool(words) and self._is_gone(look, watch)
        if words and not is_gone:
            return Finding(kind="waiting", job_id=job_id, text=f"{where}; {words}")
        self._missing[job_id] = _Missing(state=look.state, where=where, probed=is_gone)
        return None

    def _is_gone(self, look: Look, watch: bool) -> bool:
        """Whether no task of a job is left among the others on its queues, and the dead letters are known."""
        job_id = look.job.job_id
        if job_id not in self._probes.watched:
            if watch:
                self._watch(look)
            return False
        since = self._probes.advance(look, self._traffic)
        if since is None:
            return False
        if self._letters.looked_at < since:
            # What SQS or a worker moved away meanwhile must be seen.
            self._letters.scan_soon()
            return False
        self._probes.forget(job_id)
        return True

    def _watch(self, look: Look) -> None:
        try:
            awaited = find_awaited(self._settings, self._registry, self._store, look.job, look.progress)
        except UnknownTasksError as error:
            log.debug("sweep.not_probed", job_id=look.job.job_id, why=str(error))
        else:
            self._probes.watch(look, awaited)

    def _look_again(self, job_ids: Sequence[str]) -> Iterator[tuple[Job, Look | ServiceError]]:
        """Yield those of the jobs that still run, as they are now."""
        for first in range(0, len(job_ids), TOGETHER):
            jobs = self._store.records.get_now(job_ids[first : first + TOGETHER]).values()
            running = [job for job in jobs if job.state is JobState.RUNNING]
            yield from zip(running, self._store.looks.at(running), strict=True)

    def _verdict(self, look: Look, found: _Missing, traffic: Traffic, rejected: bool, unseen: int) -> Finding:
        job_id, where = look.job.job_id, found.where
        words = "" if found.probed else self._words(look, traffic)
        if words:
            return Finding(kind="waiting", job_id=job_id, text=f"{where}; {words}")
        if rejected or job_id in self._letters:
            repeat = f"pipeline dlq redrive --job {job_id}"
            text = f"{where}; a redrive of its dead letters was cut short: {repeat}"
            return Finding(kind="redrive", job_id=job_id, text=text)
        if unseen:
            text = f"{where}; {unseen:,} dead letters are being read by another process, or are new"
            return Finding(kind="waiting", job_id=job_id, text=text)
        text = f"{where}; nothing of it is on a queue, on a topic or a dead letter"
        return Finding(kind="lost", job_id=job_id, text=text)

    def _close(self, job_id: str, closings: Sequence[Closing]) -> Finding:
        splits = [closing.split for closing in closings if isinstance(closing, SplitFilled)]
        if unknown := {split.stage for split in splits if split.stage not in self._registry.by_name}:
            text = f"its parts are done, but no module in TASK_MODULES defines {', '.join(sorted(unknown))}"
            return Finding(kind="failed", job_id=job_id, text=text)
        self._ledger.close(closings)
        done = [f"the gather of {split.stage} is sent" for split in splits]
        if len(closings) > len(splits):
            done.append("its end is announced")
        return Finding(kind="closed", job_id=job_id, text=" and ".join(done))

    def _record(self, job_id: str) -> Finding | None:
        """Record dead letters that the job may not know; return None if it knew them all."""
        letters = self._letters.unrecorded(job_id)
        if not letters:
            return None
        done = self._store.resumption.already_done({each.ref for each in letters}).refs
        failed = [each for each in letters if each.ref not in done]
        if not failed:
            return None
        self._ledger.close(self._ledger.fail(failed).closings)
        self._letters.recorded(job_id)
        after = self._store.records.get(job_id)
        if after is None or after.state is JobState.RUNNING:
            return None
        text = f"{len(failed)} dead letters are recorded, and it is {after.state.value}"
        return Finding(kind="recorded", job_id=job_id, text=text)


def _progress(look: Look) -> str:
    return ", ".join(f"{stage.stage} {stage.done}/{stage.total}" for stage in look.unfinished)
