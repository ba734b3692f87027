"""Every error this project raises. The class is the decision: a handler looks at nothing else.

    PipelineError
    ├── ConfigurationError          a setting is missing or wrong: refuse to start (exit code 2)
    ├── StageDefinitionError        a stage or consumer cannot work as written: refused at import
    ├── PermanentError              a task must not be tried again: dead letter at once
    │   ├── InvalidInputError       the data does not match the function's annotation
    │   ├── ResultTooLargeError     the result does not fit where it must be stored
    │   └── PayloadLostError        the data that a task names on S3 is gone or damaged
    ├── InvalidEventError           an event cannot become a task: Kafka DLQ topic, then commit
    ├── Retry                       a task asks to be tried again after its own delay
    ├── KeyConflictError            a key that a job has is submitted again with other data
    ├── JobError                    a job has not the result that is asked for
    │   ├── UnknownJobError         no record of it
    │   ├── JobFailedError          it failed: the stage, the error, the message
    │   ├── JobCancelledError       it was cancelled
    │   └── ResultNotKeptError      its result is not in its record
    └── ServiceError                Kafka, SQS, DynamoDB or S3 did not do what was asked
        ├── ServiceUnavailableError ask again with the same ids: throttled, timed out, reply lost
        └── ServiceRefusedError     asking again gives the same answer: denied, missing
            └── MessageRefusedError this one message only: too large, a character it may not have

Any other exception a task raises is tried again, up to its stage's ``retries``.
"""


class PipelineError(Exception):
    """The base of every error this project raises."""


class ConfigurationError(PipelineError):
    """A setting, or a service's own setting, is missing or wrong. The message names it and the mend."""


class StageDefinitionError(PipelineError):
    """A stage or consumer cannot work as written: raised at import, with the function and the mend."""


class PermanentError(PipelineError):
    """Raise it (or a subclass) in a stage: no retry, a dead letter at once."""


class InvalidInputError(PermanentError):
    """The data does not match the annotation of the function that was to take it."""


class ResultTooLargeError(PermanentError):
    """A result does not fit the item or message that must carry it. The message names the limit."""


class PayloadLostError(PermanentError):
    """The data of a task is on S3, and is gone, damaged, or not this service's to read."""


class InvalidEventError(PipelineError):
    """An event that cannot become a task; the message says what is wrong with it."""


class Retry(PipelineError):  # noqa: N818 - the field's own word, as in celery.exceptions.Retry
    """Raise it in a stage to be tried again after ``delay`` seconds instead of the computed backoff.

    It counts as an attempt. SQS hides a message for 12 hours at most, so more than 11 h 55 min is that.
    """

    def __init__(self, delay: float, reason: str = "") -> None:
        super().__init__(reason or f"retry asked for in {delay:g} s")
        self.delay = delay
        self.reason = reason

    def __reduce__(self) -> tuple[type["Retry"], tuple[float, str]]:
        return type(self), (self.delay, self.reason)


class KeyConflictError(PipelineError):
    """A job was submitted under this key before, with other data or another entity. Nothing is written."""


class JobError(PipelineError):
    """A job has not the result that is asked for. ``job_id`` names it."""

    def __init__(self, job_id: str, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id

    def __reduce__(self) -> tuple[type["JobError"], tuple[str, ...]]:
        return type(self), (self.job_id, str(self))


class UnknownJobError(JobError):
    """The service has no record of this job: none has this id, or the record expired."""


class JobCancelledError(JobError):
    """The job was cancelled."""


class ResultNotKeptError(JobError):
    """The job's record does not keep this result. The message says where it is."""


class JobFailedError(JobError):
    """The job failed. The first failure that is recorded of it: its stage, its error, its message."""

    def __init__(self, job_id: str, stage: str, error: str, message: str) -> None:
        super().__init__(job_id, f"Job {job_id} failed in stage {stage}: {error}: {message}")
        #: the stage's name
        self.stage = stage
        #: the class of the exception, with its module
        self.error = error
        #: the exception's message
        self.message = message

    def __reduce__(self) -> tuple[type["JobError"], tuple[str, ...]]:
        return type(self), (self.job_id, self.stage, self.error, self.message)


class ServiceError(PipelineError):
    """Kafka, SQS, DynamoDB or S3 did not do what was asked; the vendor's error is the ``__cause__``."""


class ServiceUnavailableError(ServiceError):
    """The service was throttled, away, or its reply was lost: ask again with the same ids."""


class ServiceRefusedError(ServiceError):
    """The service refused, and would refuse again: access denied, missing queue."""


class MessageRefusedError(ServiceRefusedError):
    """The service refused one message (or handle, or item) for what it is; others go through."""
