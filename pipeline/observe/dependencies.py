"""The dependencies of a service, asked for their reports."""

from collections.abc import Iterable
from contextlib import closing

from pipeline.author.registry import Registry
from pipeline.errors import ConfigurationError, ServiceError
from pipeline.infra.needs import consumed_topics, missing_topics, topic_needs, topics_of_others
from pipeline.jobs import JobStore
from pipeline.kafka import GroupOffsets, KafkaAdmin
from pipeline.observe.queues import queue_reading
from pipeline.observe.reports import DynamodbReport, KafkaReport, S3Report, SqsReport
from pipeline.payloads.bucket import Bucket, bucket_need
from pipeline.registry import SchemaRegistry
from pipeline.settings import Settings
from pipeline.sqs import SqsQueue, sqs_client

#: Seconds one request to Kafka may take; the whole report has ``probe.TIMEOUT``.
KAFKA_TIMEOUT = 3.0


class Dependencies:
    """Asks Kafka, SQS, DynamoDB and S3. Each method may block; none raises a ``ServiceError``.

    A side that is switched off (KAFKA_ENABLED, USE_SQS_TASK_PROCESSING) is not asked.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._admin = KafkaAdmin(settings, KAFKA_TIMEOUT)
        self._offsets = GroupOffsets(settings, settings.kafka_consumer_group, KAFKA_TIMEOUT)
        self._store = JobStore(settings)

    def kafka(self) -> KafkaReport:
        """Return brokers, the topics this service uses, and how far its consumer group is behind."""
        if not self._settings.kafka_enabled:
            return KafkaReport.off()
        servers = self._settings.kafka_bootstrap_servers
        try:
            cluster = self._admin.cluster()
        except ServiceError as error:
            return KafkaReport(
                status="unhealthy", error=f"No broker answers: {error}", bootstrap_servers=servers
            )
        needs = topic_needs(self._settings, self._registry)
        others = topics_of_others(self._settings, self._registry)
        missing = [*missing_topics(needs, cluster.topics), *(others.keys() - cluster.topics.keys())]
        existing = [name for name in (*(need.name for need in needs), *others) if name not in missing]
        leaderless = sorted(
            name for name in existing if any(partition.leader < 0 for partition in cluster.topics[name])
        )
        lag: dict[str, int] | None = None
        problem: str | None = None
        try:
            lag = self._lag(existing)
        except ServiceError as error:
            problem = str(error)
        problem = problem or self._registry_problem()
        return KafkaReport(
            status="degraded" if missing or leaderless or problem else "healthy",
            error=problem,
            bootstrap_servers=servers,
            brokers=tuple(sorted(cluster.brokers.values())),
            expected_topics=tuple(sorted([*existing, *missing])),
            missing_topics=tuple(sorted(missing)),
            topics_without_leader=tuple(leaderless),
            consumer_group=self._settings.kafka_consumer_group,
            lag_by_topic=lag,
        )

    def sqs(self) -> SqsReport:
        """Return the depths of the queues. Only a missing task queue is unhealthy.

        Without a queue of its own one stage stands still; without its dead-letter queue a service runs on,
        but cannot let go of what fails.
        """
        if not self._settings.use_sqs_task_processing:
            return SqsReport.off()
        queue = self._queue(self._settings.queue_url(self._settings.task_queue))
        try:
            queues = [queue_reading(queue, "tasks")]
        except ServiceError as error:
            return SqsReport(status="unhealthy", error=str(error), queue=queue.name)
        dlq = self._queue(self._settings.sqs_dlq_url)
        own = {stage.queue for stage in self._registry.by_name.values() if stage.queue}
        others = [
            self._queue(self._settings.queue_url(name)) for name in sorted(own - {self._settings.task_queue})
        ]
        errors: list[str] = []
        for each in (*others, dlq):
            try:
                queues.append(queue_reading(each, "dlq" if each is dlq else "tasks"))
            except ServiceError as error:
                errors.append(str(error))
        return SqsReport(
            status="degraded" if errors else "healthy",
            error="; ".join(errors) or None,
            queue=queue.name,
            dlq=dlq.name,
            queues=tuple(queues),
        )

    def dynamodb(self) -> DynamodbReport:
        """Return whether the table of jobs exists, and what differs from the one this project needs."""
        try:
            table = self._store.schema.inspect()
        except ServiceError as error:
            return DynamodbReport(status="unhealthy", error=str(error), table=self._settings.dynamodb_table)
        if table.outcome == "missing":
            problem = f'There is no table {table.name}: run "pipeline provision", or correct DYNAMODB_TABLE'
            return DynamodbReport(status="unhealthy", error=problem, table=table.name)
        return DynamodbReport(
            status="degraded" if table.differences else "healthy",
            table=table.name,
            differences=tuple(table.differences),
            write_capacity=table.write_capacity,
        )

    def s3(self) -> S3Report:
        """Return whether the bucket of payloads is there. Without it only large data waits."""
        need = bucket_need(self._settings)
        if need is None:
            return S3Report.off()
        try:
            found = Bucket(need).exists()
        except ServiceError as error:
            return S3Report(status="degraded", error=str(error), bucket=need.name)
        if found:
            return S3Report(status="healthy", bucket=need.name)
        problem = f'There is no bucket {need.name}: run "pipeline provision", or correct PAYLOAD_BUCKET'
        return S3Report(status="degraded", error=problem, bucket=need.name)

    def _registry_problem(self) -> str | None:
        """Return why records with a schema cannot be read; None if they can, or there are none."""
        if self._settings.schema_registry_url is None:
            return None
        try:
            with closing(SchemaRegistry(self._settings, KAFKA_TIMEOUT)) as registry:
                registry.ping()
        except (ServiceError, ConfigurationError) as error:
            return f"Records with a schema wait: {error}"
        return None

    def _lag(self, existing: Iterable[str]) -> dict[str, int]:
        """Return the events not committed by the group, by topic."""
        consumed = sorted({*consumed_topics(self._settings, self._registry)}.intersection(existing))
        by_topic = dict.fromkeys(consumed, 0)
        for partition, events in self._offsets.lag(consumed).items():
            by_topic[partition.topic] += events
        return by_topic

    def _queue(self, url: str) -> SqsQueue:
        return SqsQueue(sqs_client(self._settings), url)
