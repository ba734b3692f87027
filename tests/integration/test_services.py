"""Both sets of services come up, answer, and leave no process behind however their user ends."""

import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pipeline.errors import ConfigurationError
from pipeline.services.embedded import embedded_services
from pipeline.services.environment import Services
from pipeline.services.process import ServerProcess, stop
from tests.conftest import MakeSettings
from tests.processes import PATIENCE, running, wait_until


def test_event_is_read_back(services: Services, make_settings: MakeSettings) -> None:
    """Kafka of either set gives back what was produced."""
    settings = make_settings(services)
    bootstrap: dict[str, str | int | float | bool] = {"bootstrap.servers": settings.kafka_bootstrap_servers}
    topic = settings.topic("document-received")
    if services.name == "local":
        admin = AdminClient(bootstrap)
        admin.create_topics([NewTopic(topic, 4, 1)])[topic].result(PATIENCE)
    producer = Producer(bootstrap)
    producer.produce(topic, b"value", b"key")
    assert producer.flush(PATIENCE) == 0
    consumer = Consumer(
        bootstrap
        | {
            "group.id": settings.kafka_consumer_group,
            "group.protocol": settings.kafka_group_protocol,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    try:
        message = consumer.poll(PATIENCE)
        assert message is not None
        assert (message.error(), message.value(), message.key()) == (None, b"value", b"key")
    finally:
        consumer.close()


def test_message_is_received(services: Services, make_settings: MakeSettings) -> None:
    """SQS of either set gives a FIFO queue at the URL the settings name."""
    settings = make_settings(services)
    client = boto3.client("sqs")
    made = client.create_queue(QueueName=settings.task_queue, Attributes={"FifoQueue": "true"})
    assert made["QueueUrl"] == settings.sqs_task_queue_url
    client.send_message(
        QueueUrl=settings.sqs_task_queue_url,
        MessageBody="x",
        MessageGroupId="g",
        MessageDeduplicationId=uuid.uuid4().hex,
    )
    received = client.receive_message(QueueUrl=settings.sqs_task_queue_url, WaitTimeSeconds=5)
    assert [message["Body"] for message in received["Messages"]] == ["x"]


def test_item_is_read_back(services: Services, make_settings: MakeSettings) -> None:
    """DynamoDB of either set gives back what was written."""
    settings = make_settings(services)
    client = boto3.client("dynamodb")
    client.create_table(
        TableName=settings.dynamodb_table,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    item = {"pk": {"S": "a"}}
    client.put_item(TableName=settings.dynamodb_table, Item=item)
    found = client.get_item(TableName=settings.dynamodb_table, Key=item, ConsistentRead=True)
    assert found["Item"] == item


def test_kill_of_the_user_ends_the_embedded_services() -> None:
    """kill -9 of the process that runs them ends the embedded services and removes their files."""
    with _user("from pipeline.services.embedded import embedded_services as services") as (user, environment):
        folder = Path(environment["AWS_SHARED_CREDENTIALS_FILE"]).parent
        port = environment["AWS_ENDPOINT_URL_SQS"].rsplit(":", 1)[1]
        assert folder.exists()
        user.kill()
        wait_until(lambda: not _listening(int(port)), "the embedded services end")
        wait_until(lambda: not folder.exists(), "the credentials file is removed")


@pytest.mark.usefixtures("local_programs")
def test_kill_of_the_user_ends_the_local_services() -> None:
    """kill -9 of the process that runs them ends the local services and removes a temporary data folder."""
    with _user("from pipeline.services.local import local_services as services") as (user, environment):
        folder = Path(environment["AWS_SHARED_CREDENTIALS_FILE"]).parent
        servers = [psutil.Process(int(file.read_text())) for file in folder.glob("*.pid")]
        assert len(running(servers)) == 3
        user.kill()
        wait_until(lambda: not running(servers), "the local servers end")
        wait_until(lambda: not folder.exists(), "the data folder is removed")


def test_missing_extra_names_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ministack the embedded services name the extra to install and the other set."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with (
        pytest.raises(ConfigurationError, match=r"pip install 'celery-stages\[embedded\]'.*local services"),
        embedded_services(),
    ):
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that is not started yet, and is stopped after the test."""
    server = ServerProcess(name="server", folder=tmp_path)
    yield server
    stop([server], grace=0)


def test_server_is_started_once(server: ServerProcess) -> None:
    """Starting a running server changes nothing; stopping it ends its process."""
    server.start(["sleep", "1000"])
    pid = server.pid()
    assert pid is not None
    process = psutil.Process(pid)
    server.start(["sleep", "1000"])
    assert server.pid() == pid
    stop([server], grace=10)
    assert server.pid() is None
    assert running([process]) == []


def test_stubborn_server_is_killed(server: ServerProcess) -> None:
    """A server that ignores the request to end is killed after its grace."""
    server.start(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"])
    wait_until(lambda: "ready" in server.log_tail(), "the server ignores SIGTERM")
    pid = server.pid()
    assert pid is not None
    process = psutil.Process(pid)
    stop([server], grace=0.2)
    assert running([process]) == []


def test_another_process_with_the_same_id_is_left_alone(server: ServerProcess, tmp_path: Path) -> None:
    """A pid file left by a crash, whose number the system gave to another process meanwhile, kills nobody."""
    with subprocess.Popen(["sleep", "1000"]) as other:
        (tmp_path / "server.pid").write_text(f"{other.pid}\n")
        assert server.pid() is None
        stop([server], grace=0)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=0.2)
        other.kill()


@contextlib.contextmanager
def _user(imports: str) -> Iterator[tuple["subprocess.Popen[str]", dict[str, str]]]:
    """A process that runs the services it imports, and their environment."""
    program = (
        f"import json, sys\n{imports}\n"
        "with services() as running:\n"
        "    print(json.dumps(dict(running.environment)), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        try:
            assert user.stdout is not None
            yield user, json.loads(user.stdout.readline())
        finally:
            user.kill()


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
