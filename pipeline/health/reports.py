"""How each dependency is, as one JSON object. No secret is in any of them: names, counts and messages only.

``status`` is "healthy", "degraded" (work goes on, something is missing) or "unhealthy" (work cannot go on).
"""

from collections.abc import Mapping
from typing import Any

from config.settings import Settings
from pipeline.errors import ServiceError
from pipeline.jobs import JobStore
from pipeline.kafka import KafkaAdmin
from pipeline.registry import Registry
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.topology import topic_needs

Report = Mapping[str, Any]

HEALTHY, DEGRADED, UNHEALTHY = "healthy", "degraded", "unhealthy"

#: Seconds one request to Kafka may take; the whole report has ``probe.TIMEOUT``.
KAFKA_TIMEOUT = 3.0


def unhealthy(error: str) -> Report:
    """The report of what cannot be asked."""
    return {"status": UNHEALTHY, "error": error}


def worst(reports: Mapping[str, Report]) -> str:
    """The worst status among reports."""
    return max((str(each["status"]) for each in reports.values()), key=(HEALTHY, DEGRADED, UNHEALTHY).index)


class Reports:
    """Asks the dependencies of one service. Each method may block; none raises a ``ServiceError``.

    A side that is switched off (KAFKA_ENABLED, USE_SQS_TASK_PROCESSING) is not asked.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._admin = KafkaAdmin(settings, KAFKA_TIMEOUT)
        self._store = JobStore(settings)

    def kafka(self) -> Report:
        """Brokers, the topics this service uses, and how far its consumer group is behind."""
        if not self._settings.kafka_enabled:
            return {"status": HEALTHY, "enabled": False}
        servers = self._settings.kafka_bootstrap_servers
        try:
            cluster = self._admin.cluster()
        except ServiceError as error:
            return {**unhealthy(f"No broker answers: {error}"), "bootstrap_servers": servers}
        expected = {need.name for need in topic_needs(self._settings, self._registry)}
        missing = expected - set(cluster.topics)
        leaderless = sorted(
            name
            for name in expected - missing
            if any(partition.leader < 0 for partition in cluster.topics[name])
        )
        lag = self._lag(expected - missing)
        sound = not missing and not leaderless and lag["lag"] is not None
        return {
            "status": HEALTHY if sound else DEGRADED,
            "bootstrap_servers": servers,
            "brokers": sorted(cluster.brokers.values()),
            "enabled": True,
            "expected_topics": sorted(expected),
            "existing_topics": sorted(expected - missing),
            "missing_topics": sorted(missing),
            "topics_without_leader": leaderless,
            "consumer_group": self._settings.kafka_consumer_group,
            **lag,
        }

    def sqs(self) -> Report:
        """About how many messages wait, are in flight and are delayed, and how many are dead letters."""
        if not self._settings.use_sqs_task_processing:
            return {"status": HEALTHY, "enabled": False}
        queue = self._queue(self._settings.task_queue)
        try:
            depth = queue.depth()
        except ServiceError as error:
            return {**unhealthy(str(error)), "queue": queue.name}
        return {
            "status": HEALTHY,
            "queue": queue.name,
            "enabled": True,
            "messages_available": depth.available,
            "messages_in_flight": depth.in_flight,
            "messages_delayed": depth.delayed,
            **self._other_queues(),
            **self._dead_letters(),
        }

    def dynamodb(self) -> Report:
        """Whether the table of jobs is there, and what differs from what this project needs."""
        try:
            table = self._store.inspect()
        except ServiceError as error:
            return {**unhealthy(str(error)), "table": self._settings.dynamodb_table}
        if table.outcome == "missing":
            problem = f'There is no table {table.name}: run "pipeline provision", or correct DYNAMODB_TABLE'
            return {**unhealthy(problem), "table": table.name}
        return {
            "status": DEGRADED if table.differences else HEALTHY,
            "table": table.name,
            "differences": list(table.differences),
        }

    def _lag(self, existing: set[str]) -> dict[str, Any]:
        """Events not committed by the group: in all, and by topic. None when Kafka does not tell."""
        consumed = {self._settings.topic(name) for name in self._registry.consumed_topics}
        try:
            lag = self._admin.lag(self._settings.kafka_consumer_group, sorted(consumed & existing))
        except ServiceError as error:
            return {"lag": None, "error": str(error)}
        by_topic = dict.fromkeys(sorted(consumed & existing), 0)
        for partition, events in lag.items():
            by_topic[partition.topic] += events
        return {"lag": sum(by_topic.values()), "lag_by_topic": by_topic}

    def _other_queues(self) -> dict[str, Any]:
        """The queues that stages name for themselves; a missing one holds up its stages only."""
        names = {stage.queue for stage in self._registry.by_name.values() if stage.queue}
        found: dict[str, Any] = {}
        errors: list[str] = []
        for name in sorted(names - {self._settings.task_queue}):
            try:
                depth = self._queue(name).depth()
            except ServiceError as error:
                errors.append(str(error))
                continue
            found[name] = {
                "messages_available": depth.available,
                "messages_in_flight": depth.in_flight,
                "messages_delayed": depth.delayed,
            }
        told = {"other_queues": found} if found else {}
        return told | ({"status": DEGRADED, "error": "; ".join(errors)} if errors else {})

    def _dead_letters(self) -> dict[str, Any]:
        """Without its dead-letter queue a service runs on, but cannot let go of what fails."""
        queue = self._queue(self._settings.sqs_dlq_url.rsplit("/", 1)[1])
        try:
            depth = queue.depth()
        except ServiceError as error:
            return {"status": DEGRADED, "dlq": queue.name, "dlq_depth": None, "error": str(error)}
        return {"dlq": queue.name, "dlq_depth": depth.available + depth.in_flight + depth.delayed}

    def _queue(self, name: str) -> SqsQueue:
        url = self._settings.sqs_dlq_url if self._settings.sqs_dlq_url.endswith(f"/{name}") else None
        return SqsQueue(sqs_client(self._settings), url or self._settings.queue_url(name))
