"""The ground of one measurement: own names on running services, with queues, table and topics made."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from pipeline.author.loading import load_stages
from pipeline.author.registry import REGISTRY
from pipeline.jobs import JobStore
from pipeline.kafka.admin import KafkaAdmin
from pipeline.services.embedded import embedded_services
from pipeline.services.environment import Services
from pipeline.services.local import local_services
from pipeline.settings import JOBS_TOPIC, Settings, load_settings
from pipeline.sqs import SqsQueue, sqs_client

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: The stages that are measured.
TASKS = "benchmarks.stages,benchmarks.waiting"

#: Above the receive count of any benchmark's message, so that none moves to the dead-letter queue.
MAX_RECEIVES = 1000

#: Of every queue.
ATTRIBUTES: dict[Any, str] = {
    "FifoQueue": "true",
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
    "VisibilityTimeout": "300",
    "MessageRetentionPeriod": "1209600",
    "MaximumMessageSize": "1048576",
}

_SETTINGS = {field.upper() for field in Settings.model_fields}


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Services under names that no other measurement uses."""

    #: The name of the set of services.
    services: str
    #: The environment of a process that uses them directly.
    environment: Mapping[str, str]
    settings: Settings

    @property
    def queue(self) -> SqsQueue:
        """Return the task queue, without a proxy."""
        return SqsQueue(self.client, self.settings.sqs_task_queue_url)

    @property
    def client(self) -> "SQSClient":
        """Return a client, without a proxy."""
        return sqs_client(self.settings)

    @property
    def servers(self) -> dict[str, str]:
        """Return the servers that a proxy can stand before, as URLs by name."""
        return {name: self.environment[_endpoint(name)] for name in ("sqs", "dynamodb")}

    def environment_through(self, urls: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a process that reaches ``servers`` at these URLs instead."""
        moved = dict(self.environment) | {_endpoint(name): url for name, url in urls.items()}
        for name in ("SQS_TASK_QUEUE_URL", "SQS_DLQ_URL"):
            moved[name] = moved[name].replace(self.servers["sqs"], urls["sqs"])
        return moved


@contextlib.contextmanager
def running_services(name: str) -> Iterator[Services]:
    """Run the services of that name ("embedded" or "local") for the block.

    This process uses them too: boto3 reads its own variables, which are set until then.
    """
    run = embedded_services if name == "embedded" else local_services
    with run() as services, patch.dict(os.environ, _for_boto3(services)):
        yield services


def _for_boto3(services: Services) -> dict[str, str]:
    return {name: value for name, value in services.environment.items() if name.startswith("AWS_")}


def make_ground(services: Services, modules: str = TASKS) -> Ground:
    """Create the names, and everything that a worker of ``modules`` needs under them."""
    environment = _environment(services, modules)
    ground = Ground(services=services.name, environment=environment, settings=load_settings(environment))
    ground.client.create_queue(QueueName=ground.settings.sqs_dlq_url.rsplit("/", 1)[1], Attributes=ATTRIBUTES)
    make_queue(ground, ground.settings.task_queue)
    JobStore(ground.settings).schema.provision()
    _make_topics(ground.settings)
    return ground


def _environment(services: Services, modules: str) -> dict[str, str]:
    name = f"bench-{uuid.uuid4().hex[:12]}"
    queues = services.environment["SQS_TASK_QUEUE_URL"].rsplit("/", 1)[0]
    inherited = {
        key: value
        for key, value in os.environ.items()
        if key not in _SETTINGS and not key.startswith(("KAFKA_", "AWS_"))
    }
    own = {
        "SERVICE_NAME": name,
        "TASK_MODULES": modules,
        "TOPIC_PREFIX": f"{name}-",
        "KAFKA_CONSUMER_GROUP": name,
        "SQS_TASK_QUEUE_URL": f"{queues}/{name}-tasks.fifo",
        "SQS_DLQ_URL": f"{queues}/{name}-dlq.fifo",
        "DYNAMODB_TABLE": f"{name}-jobs",
        "TOPIC_PARTITIONS": "6",
        "SQS_WAIT_TIME_SECONDS": "1",
        # The peers send the events of all their tasks.
        "EVENTS_TASKS_PER_SECOND": "1000000",
    }
    return {**inherited, **services.environment, **own}


def make_queue(ground: Ground, name: str) -> None:
    """Create a queue of tasks, whose dead letters go where those of the others do."""
    client, settings = ground.client, ground.settings
    arn = client.get_queue_attributes(QueueUrl=settings.sqs_dlq_url, AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": MAX_RECEIVES}
    client.create_queue(QueueName=name, Attributes=ATTRIBUTES | {"RedrivePolicy": json.dumps(policy)})


def _make_topics(settings: Settings) -> None:
    load_stages(settings.task_modules)
    admin = KafkaAdmin(settings)
    for name in (*REGISTRY.topics, JOBS_TOPIC, "errors", "dlq"):
        admin.create(settings.topic(name), partitions=settings.topic_partitions, replication=1, config={})


def _endpoint(server: str) -> str:
    return f"AWS_ENDPOINT_URL_{server.upper()}"
