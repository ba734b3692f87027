"""Cancelling: a job that runs is recorded as cancelled, workers skip the rest, the jobs topic is told."""

from config.settings import Settings
from pipeline.jobevents import job_ended, job_record
from pipeline.jobs import Job, JobState, JobStore
from pipeline.kafka import EventProducer

#: Seconds that one wait for Kafka's acknowledgement lasts.
EMIT_TIMEOUT = 30.0


def cancel_job(settings: Settings, store: JobStore, producer: EventProducer, job_id: str) -> Job | None:
    """Cancel a job; the job as it is then (its ``state`` says whether it is cancelled), None for none.

    Raises the ServiceError of DynamoDB or Kafka: the job may be cancelled and nobody told. Saying it again
    goes on from there, and tells it under the same id.
    """
    job = store.cancel(job_id)
    if job is not None and job.state is JobState.CANCELLED:
        (error,) = producer.emit([job_record(settings, job_ended(settings, job, "cancelled"))], EMIT_TIMEOUT)
        if error is not None:
            raise error
    return job
