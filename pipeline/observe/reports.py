"""Reports of the dependencies of a service: what health, metrics, checks and the jobs page read. No I/O.

No report holds a secret: names, counts and messages only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from pipeline.jobs import WriteCapacity

#: "degraded": work goes on, something is missing. "unhealthy": work cannot go on.
Status = Literal["healthy", "degraded", "unhealthy"]

#: From best to worst.
STATUSES: tuple[Status, ...] = ("healthy", "degraded", "unhealthy")


@dataclass(frozen=True, kw_only=True)
class Report:
    """The state of one dependency."""

    status: Status
    #: What failed, with the mend; None while nothing did.
    error: str | None = None
    #: When the problem was first seen (seconds since 1970); None without an error.
    since: float | None = None
    #: False: this side of the service is switched off and was not asked.
    enabled: bool = True

    @classmethod
    def unhealthy(cls, error: str) -> Self:
        """Return the report of a dependency that does not answer."""
        return cls(status="unhealthy", error=error)

    @classmethod
    def off(cls) -> Self:
        """Return the report of a dependency that is switched off."""
        return cls(status="healthy", enabled=False)


@dataclass(frozen=True, kw_only=True)
class KafkaReport(Report):
    """Brokers, the topics of the service, and how far its consumer group is behind."""

    #: None while Kafka is off, or did not answer in time.
    bootstrap_servers: str | None = None
    brokers: tuple[str, ...] = ()
    expected_topics: tuple[str, ...] = ()
    missing_topics: tuple[str, ...] = ()
    topics_without_leader: tuple[str, ...] = ()
    consumer_group: str | None = None
    #: Events that the group has not committed, by consumed topic; None while Kafka does not tell.
    lag_by_topic: Mapping[str, int] | None = None

    @property
    def existing_topics(self) -> tuple[str, ...]:
        """The expected topics that exist."""
        return tuple(name for name in self.expected_topics if name not in self.missing_topics)

    @property
    def lag(self) -> int | None:
        """Events that the group has not committed in all topics."""
        return None if self.lag_by_topic is None else sum(self.lag_by_topic.values())


@dataclass(frozen=True, kw_only=True)
class QueueReading:
    """The approximate number of messages in one queue."""

    name: str
    role: Literal["tasks", "dlq"]
    available: int
    in_flight: int
    delayed: int

    @property
    def depth(self) -> int:
        """All messages of the queue."""
        return self.available + self.in_flight + self.delayed


@dataclass(frozen=True, kw_only=True)
class SqsReport(Report):
    """The queues of the service."""

    #: The names of the task queue and the dead-letter queue; None while SQS is off or does not answer.
    queue: str | None = None
    dlq: str | None = None
    #: The queues that were read; one that could not be read is named by ``error``.
    queues: tuple[QueueReading, ...] = ()

    def reading(self, name: str | None) -> QueueReading | None:
        """Return the reading of a queue; None if it could not be read."""
        return next((queue for queue in self.queues if queue.name == name), None)

    @property
    def dlq_depth(self) -> int | None:
        """The number of dead letters; None if it could not be read."""
        reading = self.reading(self.dlq)
        return None if reading is None else reading.depth


@dataclass(frozen=True, kw_only=True)
class DynamodbReport(Report):
    """The table of jobs."""

    table: str | None = None
    #: What differs from the table that ``pipeline provision`` makes.
    differences: tuple[str, ...] = ()
    #: What table and index take at once; None where DynamoDB does not tell.
    write_capacity: WriteCapacity | None = None


@dataclass(frozen=True, kw_only=True)
class S3Report(Report):
    """The bucket of payloads."""

    bucket: str | None = None


@dataclass(frozen=True, kw_only=True)
class HealthReport:
    """All dependencies of a service."""

    kafka: KafkaReport
    sqs: SqsReport
    dynamodb: DynamodbReport
    s3: S3Report = field(default_factory=S3Report.off)

    @property
    def by_name(self) -> Mapping[str, Report]:
        """The reports by the names of their dependencies; without S3 where nothing is kept there."""
        s3 = {"s3": self.s3} if self.s3.enabled else {}
        return {"kafka": self.kafka, "sqs": self.sqs, "dynamodb": self.dynamodb, **s3}

    @property
    def status(self) -> Status:
        """The worst status among the reports."""
        return max((report.status for report in self.by_name.values()), key=STATUSES.index)
