"""What the checks look at: each fact asked for once, when a check first needs it.

The clients' configurations are those the doors make their clients with, not a copy of them.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, overload

from config.settings import Settings, load_settings
from pipeline import taskmessage
from pipeline.errors import ServiceError
from pipeline.events import Event
from pipeline.jobs import JobStore, TableReport
from pipeline.kafka import Cluster, KafkaAdmin, consumer_configuration, producer_configuration
from pipeline.monitoring.sqs import Reading, SqsMonitor
from pipeline.registry import Registry
from pipeline.sqs import credentials_source, sqs_client
from pipeline.sqs.queues import queue_attributes
from pipeline.stages import Stage
from pipeline.taskmessage import TaskMessage
from pipeline.topology import QueueNeed, TopicNeed, queue_needs, topic_needs

#: Seconds one request to Kafka may take.
TIMEOUT = 5.0

HEALTH_PATHS = ("/kafka/health", "/sqs/health", "/health")

#: Seconds until what was just made (a topic, a cluster's first group) is known everywhere.
SETTLING = 1.5

#: A trace of nobody's: what the sample event carries.
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Answer = TypeVar("Answer")


class once(Generic[Answer]):  # noqa: N801 - used as functools.cached_property is
    """A property that asks once, also when the answer is a ``ServiceError``: nothing is waited for twice."""

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
    """The facts of one service. Those in ``known`` are taken as they are and not asked for."""

    def __init__(
        self, settings: Settings, registry: Registry, environ: Mapping[str, str], **known: Any
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.environ = environ
        self.known: dict[str, Any] = known

    @once
    def producer(self) -> dict[str, Any]:
        """What the producer is made with."""
        return producer_configuration(self.settings, "worker")

    @once
    def consumer(self) -> dict[str, Any]:
        """What the bridge's consumer is made with."""
        return consumer_configuration(self.settings, self.settings.kafka_consumer_group)

    @once
    def cluster(self) -> Cluster:
        """Brokers and topics; asked again where one is missing: a new topic is not on each broker at once."""
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
        """The configuration of those that are there; {} from a cluster that does not tell (the mock)."""
        there = [need.name for need in self.topic_needs if need.name in self.cluster.topics]
        return KafkaAdmin(self.settings, TIMEOUT).configs(there)

    @once
    def queue_needs(self) -> list[QueueNeed]:
        """The queues this service needs, the dead-letter queue first."""
        return queue_needs(self.settings, self.registry)

    @once
    def queues(self) -> dict[str, dict[str, str] | None]:
        """The attributes of each needed queue, by URL; None for one that is missing."""
        client = sqs_client(self.settings)
        return {need.url: queue_attributes(client, need.url) for need in self.queue_needs}

    @once
    def depths(self) -> Reading:
        """What each queue holds."""
        return SqsMonitor(self.settings).read(self.registry)

    @once
    def credentials(self) -> str | None:
        """Where boto3 finds credentials, in its own word."""
        return credentials_source()

    @once
    def table(self) -> TableReport:
        """The table of jobs."""
        return JobStore(self.settings).inspect()

    @once
    def celery(self) -> Any:
        """The worker's Celery app, with these settings."""
        from pipeline.celery import make_app

        app = make_app()
        app.settings = self.settings
        return app

    @once
    def health(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """Status code and body of each health endpoint, really served and asked for on a free port.

        Raises ImportError where the extra ``web`` is not installed.
        """
        from pipeline.health.server import WebServer

        server = WebServer(self.settings, self.registry, "127.0.0.1", 0)
        server.start()
        try:
            answers = {path: _get(server.url + path) for path in HEALTH_PATHS}
            if any(report["status"] == "degraded" for _, report in answers.values()):
                time.sleep(SETTLING)
                answers = {path: _get(server.url + path) for path in HEALTH_PATHS}
        finally:
            server.stop()
        return answers

    @property
    def longest_run(self) -> float:
        """Seconds after which the longest task is killed."""
        limits = [stage.time_limit for stage in self.registry.by_name.values() if stage.time_limit]
        return max([self.settings.task_time_limit, *limits])

    def message(self, stage: Stage[Any, Any], event_id: str, entity_id: str) -> TaskMessage:
        """The task message that the bridge makes of an event."""
        return taskmessage.for_event(stage, sample_event(event_id, entity_id), f"job-of-{event_id}", 0.0)


def sample_event(event_id: str, entity_id: str) -> Event:
    """An event that is never sent."""
    return Event(
        id=event_id,
        source="/checklist",
        type="sample",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        entity_id=entity_id,
        data=b"{}",
        traceparent=TRACEPARENT,
    )


def checked_settings(environ: Mapping[str, str]) -> Settings:
    """The settings, also with a queue that is no FIFO queue: the checklist has a line for that."""
    standard = {
        name: environ[name]
        for name in ("SQS_TASK_QUEUE_URL", "SQS_DLQ_URL")
        if environ.get(name) and not environ[name].endswith(".fifo")
    }
    settings = load_settings({**environ, **{name: f"{url}.fifo" for name, url in standard.items()}})
    return settings.model_copy(update={name.lower(): url for name, url in standard.items()})


def _get(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT + 1) as answer:  # noqa: S310 - our own server
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())
