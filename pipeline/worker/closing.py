"""Closing: what follows when the last task of a split or of a job is recorded."""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from config.settings import JOBS_TOPIC, Settings
from pipeline import taskmessage
from pipeline.errorevents import job_failed_record
from pipeline.errors import ServiceError
from pipeline.jobevents import job_ended, job_record
from pipeline.jobs import (
    Closing,
    Filled,
    Job,
    JobFailed,
    JobFilled,
    JobStore,
    SealedSplit,
    SplitFilled,
    SplitRef,
)
from pipeline.kafka import EventProducer, Record
from pipeline.patience import Patience, raise_first
from pipeline.registry import Registry
from pipeline.taskmessage import TaskMessage
from pipeline.telemetry import metrics, tracing
from pipeline.worker.dispatch import Dispatch

#: How long one wait for Kafka's acknowledgement lasts (seconds).
EMIT_TIMEOUT = 30.0
NO_TRACES: Mapping[str, str] = MappingProxyType({})


class Closer:
    """Sends full splits' gathers and announces ended jobs; each has one id however often it is repeated."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: JobStore,
        producer: EventProducer,
        dispatch: Dispatch,
        patience: Patience,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._store = store
        self._producer = producer
        self._dispatch = dispatch
        self._patience = patience

    def close(self, closings: Sequence[Closing], traces: Mapping[str, str] = NO_TRACES) -> None:
        """Close each, all together; waits for services that are away.

        ``traces``: by the id of a job the ``traceparent`` of a task that may have ended it.
        """
        if not closings:
            return
        self._send_gathers([closing.split for closing in closings if isinstance(closing, SplitFilled)])
        self._announce([each for each in closings if isinstance(each, JobFilled | JobFailed)], traces)
        filled: list[Filled] = [closing for closing in closings if not isinstance(closing, JobFailed)]
        raise_first(self._patience.each("close", filled, self._close))

    def _send_gathers(self, splits: Sequence[SplitRef]) -> None:
        if not splits:
            return
        sealed = self._patience.one("read splits", lambda: self._store.splits(splits))
        raise_first(self._dispatch.send([gather_of(self._registry, split) for split in sealed.values()]))

    def _announce(self, ended: Sequence[JobFilled | JobFailed], traces: Mapping[str, str]) -> None:
        topic = self._settings.topic(JOBS_TOPIC)
        records, spans = [], []
        for closing in ended:
            if isinstance(closing, JobFailed):
                job = closing.job
                records.append(job_failed_record(self._settings, job, traces.get(job.job_id)))
                continue
            event = job_ended(self._settings, closing.job, "complete")
            spans.append(tracing.sending(topic, event.continuing(traces.get(closing.job.job_id))))
            records.append(job_record(self._settings, event.continuing(spans[-1].traceparent)))
        raise_first(
            self._patience.each(
                "announce jobs", records, lambda batch: self._producer.emit(batch, EMIT_TIMEOUT)
            )
        )
        for span in spans:
            span.end()
        for closing in ended:
            state = "failed" if isinstance(closing, JobFailed) else "complete"
            metrics.JOB_SECONDS.labels(state).observe(max(0.0, time.time() - closing.job.submitted_at))

    def _close(self, filled: Sequence[Filled]) -> list[Exception | None]:
        answers = self._store.close_all(filled)
        return [answer if isinstance(answer, ServiceError) else None for answer in answers]


def gather_of(registry: Registry, sealed: SealedSplit) -> TaskMessage:
    """The gather's task of a sealed split: all it needs is in the seal, so that anybody can make it."""
    stage = registry.by_name[sealed.split.stage]
    return taskmessage.for_gather(stage, sealed.header, sealed.total, sealed.data)


def job_complete_record(settings: Settings, job: Job) -> Record:
    """The Kafka record that says a job is complete; always the same id for the same job."""
    return job_record(settings, job_ended(settings, job, "complete"))
