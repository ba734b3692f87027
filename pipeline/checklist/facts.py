"""Facts of a service for the checklist: each is asked for once, when a check first needs it.

The configurations of clients are those that the clients are really made with, not a copy of them.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, overload

from pydantic import SecretStr

from pipeline.author.registry import Registry
from pipeline.author.stages import Stage
from pipeline.errors import ServiceError
from pipeline.infra.compare import QueueComparison, TopicComparison, compare_queue, compare_topic
from pipeline.infra.needs import QueueNeed, TopicNeed, queue_needs, topic_needs
from pipeline.infra.topicschemas import SchemaReport, schema_reports
from pipeline.jobs import JobStore, Pass, TableReport
from pipeline.jobs.dynamodb import dynamodb_client
from pipeline.kafka import Cluster, KafkaAdmin, Topic, consumer_configuration, producer_configuration
from pipeline.observe.queues import Reading, SqsMonitor
from pipeline.observe.topics import GroupReport, KafkaMonitor
from pipeline.payloads.bucket import Bucket, BucketReport, bucket_need
from pipeline.payloads.client import s3_client
from pipeline.schedules.status import ScheduleStatus, read_schedules
from pipeline.settings import Settings, load_settings
from pipeline.sqs import credentials_source, sqs_client
from pipeline.sqs.queues import queue_attributes
from pipeline.wire import taskmessage
from pipeline.wire.events import Event
from pipeline.wire.taskmessage import TaskMessage
from pipeline.worker.cancelled import CLOCKS_DIFFER

#: Seconds one request to Kafka may take.
TIMEOUT = 5.0

#: Seconds in which the events of the last minutes are read, in a busy service 50,000.
HEARD_WITHIN = 10.0

#: Variables of the environment that name an address.
ENDPOINTS = ("VAULT_ADDR", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

HEALTH_PATHS = ("/kafka/health", "/sqs/health", "/health")

#: Jobs whose rate is looked at.
NEWEST = 1_000

#: Seconds until every broker knows a new topic or a cluster's first group.
SETTLING = 1.5

#: The trace of the sample event.
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Answer = TypeVar("Answer")


class once(Generic[Answer]):  # noqa: N801 - used as functools.cached_property is
    """A property that asks once, also if the answer is a ``ServiceError``: no time-out twice."""

    def __init__(self, ask: Callable[[Any], Answer]) -> None:
        self._ask = ask
        self.__doc__ = ask.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, facts: None, owner: type) -> "once[Answer]": ...
    @overload
    def __get__(self, facts: "Facts", owner: type) -> Answer: ...
    def __get__(self, facts: "Facts | None", owner: type) -> "once[Answer] | Answer":
        if facts is None:
            return self
        if self._name not in facts.known:
            try:
                facts.known[self._name] = self._ask(facts)
            except ServiceError as error:
                facts.known[self._name] = error
        answer: Answer | ServiceError = facts.known[self._name]
        if isinstance(answer, ServiceError):
            raise answer
        return answer


class Facts:
    """The facts of one service. Those in ``known`` are used as they are and not asked for."""

    def __init__(
        self, settings: Settings, registry: Registry, environ: Mapping[str, str], **known: Any
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.environ = environ
        self.known: dict[str, Any] = known

    @once
    def producer(self) -> dict[str, Any]:
        """The configuration of the worker's producer."""
        return producer_configuration(self.settings, "worker")

    @once
    def consumer(self) -> dict[str, Any]:
        """The configuration of the bridge's consumer."""
        return consumer_configuration(self.settings, self.settings.kafka_consumer_group)

    @once
    def cluster(self) -> Cluster:
        """Brokers and topics; asked again if one is missing: not every broker knows a new topic at once."""
        admin = KafkaAdmin(self.settings, TIMEOUT)
        cluster = admin.cluster()
        if all(cluster.topics.get(need.name) for need in self.topic_needs):
            return cluster
        time.sleep(SETTLING)
        return admin.cluster()

    @once
    def topic_needs(self) -> list[TopicNeed]:
        """The topics this service needs."""
        return topic_needs(self.settings, self.registry)

    @once
    def topic_configs(self) -> dict[str, dict[str, str]]:
        """The configuration of the existing ones; {} from a cluster that does not tell (the mock)."""
        existing = [need.name for need in self.topic_needs if need.name in self.cluster.topics]
        return KafkaAdmin(self.settings, TIMEOUT).configs(existing)

    @property
    def topics(self) -> list[TopicComparison]:
        """The needed topics that exist and whose configuration the cluster tells, compared."""
        return [
            compare_topic(need, _topic(self.cluster, need.name), self.topic_configs[need.name])
            for need in self.topic_needs
            if need.name in self.cluster.topics and need.name in self.topic_configs
        ]

    @once
    def schemas(self) -> list[SchemaReport]:
        """The schemas of topics, compared with those that the registry has."""
        return schema_reports(self.settings, self.registry)

    @once
    def queue_needs(self) -> list[QueueNeed]:
        """The queues this service needs, the dead-letter queue first."""
        return queue_needs(self.settings, self.registry)

    @once
    def queue_attributes(self) -> dict[str, dict[str, str] | None]:
        """The attributes of each needed queue, by URL; None for one that is missing."""
        client = sqs_client(self.settings)
        return {need.url: queue_attributes(client, need.url) for need in self.queue_needs}

    @property
    def dead_letter_queue(self) -> QueueComparison:
        """The dead-letter queue, compared with its need."""
        need = self.queue_needs[0]
        return compare_queue(need, self.queue_attributes[need.url], None)

    @property
    def task_queues(self) -> list[QueueComparison]:
        """The queues of tasks, compared with their needs."""
        arn = self.dead_letter_queue.arn
        return [compare_queue(need, self.queue_attributes[need.url], arn) for need in self.queue_needs[1:]]

    @once
    def depths(self) -> Reading:
        """The depth of each queue."""
        return SqsMonitor(self.settings).read(self.registry)

    @once
    def group(self) -> GroupReport:
        """The consumer group of the bridges."""
        return KafkaMonitor(self.settings).service_group(self.registry)

    @once
    def workers(self) -> int | None:
        """The number of workers that send heartbeats; None if those could not be read in time."""
        # Its imports take half a second, which "pipeline --help" need not wait for.
        from pipeline.observe.stagestats import StageStats

        stats = StageStats(self.settings)
        stats.start()
        try:
            return stats.snapshot().online if stats.wait_for_past(HEARD_WITHIN) else None
        finally:
            stats.stop()

    @once
    def credentials(self) -> str | None:
        """The source of boto3's credentials, in botocore's word."""
        return credentials_source()

    @once
    def table(self) -> TableReport:
        """The table of jobs."""
        return JobStore(self.settings).schema.inspect()

    @once
    def bucket(self) -> BucketReport | None:
        """The bucket of payloads; None where nothing is kept on S3."""
        need = bucket_need(self.settings)
        return Bucket(need).inspect() if need else None

    @once
    def recovery(self) -> bool | None:
        """Whether point-in-time recovery of the table is on; None from an emulator that does not know it."""
        return JobStore(self.settings).schema.recovers()

    @once
    def cancelled(self) -> int:
        """The number of jobs cancelled in as long a time as workers read back."""
        return len(JobStore(self.settings).cancelled_since(time.time() - CLOCKS_DIFFER))

    @once
    def index_shards(self) -> int:
        """How many shards of the index lists read: the most that a process ever used."""
        return JobStore(self.settings).shards.to_read()

    @once
    def open_beyond(self) -> bool:
        """Whether a running job is in a shard of the index that the setting does not use."""
        return JobStore(self.settings).listing.has_open_beyond(self.settings.dynamodb_index_shards)

    @once
    def jobs_a_second(self) -> float:
        """The rate at which the newest jobs were submitted; of one alone since then."""
        submitted = JobStore(self.settings).listing.submissions(NEWEST)
        return len(submitted) / max(1.0, time.time() - submitted[-1]) if submitted else 0.0

    @once
    def sweep(self) -> Pass | None:
        """The sweep's passes over the open jobs; None before the first one began."""
        return JobStore(self.settings).passes.load()

    @once
    def schedules(self) -> list[ScheduleStatus]:
        """The schedules that bridges recorded."""
        return read_schedules(JobStore(self.settings).schedules, time.time())

    @once
    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    @once
    def endpoints(self) -> dict[str, str]:
        """The addresses that this process sends data to, Kafka's left out, by the setting that names each."""
        named = {
            "AWS_ENDPOINT_URL_SQS": sqs_client(self.settings).meta.endpoint_url,
            "AWS_ENDPOINT_URL_DYNAMODB": dynamodb_client().meta.endpoint_url,
            "AWS_ENDPOINT_URL_S3": s3_client().meta.endpoint_url if self.settings.payload_bucket else "",
            "SQS_TASK_QUEUE_URL": self.settings.sqs_task_queue_url,
            "SQS_DLQ_URL": self.settings.sqs_dlq_url,
            "SENTRY_DSN": self.settings.sentry_dsn.get_secret_value() if self.settings.sentry_dsn else "",
            **{name: self.environ.get(name, "") for name in ENDPOINTS},
        }
        return {name: url for name, url in named.items() if url}

    @once
    def celery(self) -> Any:
        """The worker's Celery app, with these settings."""
        from pipeline.celery import make_app

        return make_app(self.settings)

    @once
    def health(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """Status code and body of each health endpoint, served on a free port and asked over HTTP.

        Raises ImportError where the extra ``web`` is not installed.
        """
        from pipeline.observe.server import WebServer

        server = WebServer(self.settings, self.registry, "127.0.0.1", 0)
        token = self.settings.web_token
        server.start()
        try:
            answers = {path: _get(server.url + path, token) for path in HEALTH_PATHS}
            if any(report["status"] == "degraded" for _, report in answers.values()):
                time.sleep(SETTLING)
                answers = {path: _get(server.url + path, token) for path in HEALTH_PATHS}
        finally:
            server.stop()
        return answers

    @property
    def longest_run(self) -> float:
        """Seconds after which the longest task is killed."""
        limits = [stage.time_limit for stage in self.registry.by_name.values() if stage.time_limit]
        return max([self.settings.task_time_limit, *limits])

    @property
    def grace(self) -> float:
        """Seconds from SIGTERM until a worker has settled its last task and ended."""
        # Celery takes half a second to import, which "pipeline --help" need not wait for.
        from pipeline.worker.runtime import CLOSE_TIMEOUT, SETTLE_TIMEOUT

        return self.longest_run + SETTLE_TIMEOUT + CLOSE_TIMEOUT

    def message(self, stage: Stage[Any, Any], event_id: str, entity_id: str) -> TaskMessage:
        """Return the task message that the bridge makes of an event."""
        return taskmessage.for_event(stage, sample_event(event_id, entity_id), f"job-of-{event_id}", 0.0)


def sample_event(event_id: str, entity_id: str) -> Event:
    """Return an event that is never sent."""
    return Event(
        id=event_id,
        source="/checklist",
        type="sample",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        entity_id=entity_id,
        data=b"{}",
        traceparent=TRACEPARENT,
    )


def settings_to_check(environ: Mapping[str, str]) -> Settings:
    """Return the settings, also with a standard queue, which the checklist has a line for."""
    standard = {
        name: environ[name]
        for name in ("SQS_TASK_QUEUE_URL", "SQS_DLQ_URL")
        if environ.get(name) and not environ[name].endswith(".fifo")
    }
    settings = load_settings({**environ, **{name: f"{url}.fifo" for name, url in standard.items()}})
    return settings.model_copy(update={name.lower(): url for name, url in standard.items()})


def _topic(cluster: Cluster, name: str) -> Topic:
    partitions = cluster.topics[name]
    replication = min((len(each.replicas) for each in partitions), default=0)
    return Topic(name=name, partitions=len(partitions), replication=replication)


def _get(url: str, token: SecretStr | None) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - our own server
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT + 1) as answer:  # noqa: S310 - our own server
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())
