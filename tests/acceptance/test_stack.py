"""``pipeline stack`` as a person types it: up, status, env, down, and the data over a restart."""

import json
import os
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.processes import PATIENCE, running, wait_until

PIPELINE = Path(sysconfig.get_path("scripts")) / "pipeline"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs ``pipeline stack`` in a folder of its own, and takes down at the end whatever it left."""

    def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [PIPELINE, "stack", *arguments],
            cwd=tmp_path,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    yield run
    run("down")


@pytest.mark.usefixtures("local_programs")
def test_stack_keeps_its_data_over_a_restart(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up makes all three servers answer, down ends them, and what was written is there after the next up."""
    up = run("up", "--json")
    assert up.returncode == 0, up.stderr
    environment = json.loads(up.stdout)["environment"]
    processes = _servers(run)
    assert (tmp_path / ".pipeline" / "stack").is_dir()

    again = run("up", "--json")
    assert json.loads(again.stdout)["environment"] == environment
    assert _servers(run) == processes, "up of a running stack started something anew"

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    _write(environment)
    down = run("down")
    assert down.returncode == 0
    assert "Apache Kafka" in down.stdout
    assert running(processes) == []
    assert run("status").returncode == 1

    up = run("up", "--json")
    assert up.returncode == 0, up.stderr
    assert json.loads(up.stdout)["environment"] == environment, "the ports changed without need"
    _check(environment)


@pytest.mark.usefixtures("local_programs")
def test_one_server_that_died_is_started_again(run: Run) -> None:
    """After a crash of one server, status says so and up starts that one only."""
    assert run("up").returncode == 0
    dynamodb, *others = _servers(run)
    dynamodb.kill()
    wait_until(lambda: not running([dynamodb]), "its end")
    status = run("status", "--json")
    assert status.returncode == 1
    assert not json.loads(status.stdout)["dynamodb"]["ready"]
    assert run("up").returncode == 0
    started, *untouched = _servers(run)
    assert started != dynamodb
    assert untouched == others


@pytest.mark.usefixtures("local_programs")
def test_env_is_for_a_shell(run: Run, tmp_path: Path) -> None:
    """The lines of env, evaluated by a shell, set the variables, also when a path has a blank and a quote."""
    data = tmp_path / "it's here"
    try:
        assert run("up", "--data", str(data)).returncode == 0
        script = f'eval "$("{PIPELINE}" stack env --data "$1")" && printf %s "$AWS_SHARED_CREDENTIALS_FILE"'
        shell = subprocess.run(
            ["sh", "-c", script, "sh", str(data)], capture_output=True, text=True, timeout=30, check=True
        )
        assert Path(shell.stdout) == data / "aws-credentials"
    finally:
        run("down", "--data", str(data))


def test_env_of_a_stopped_stack_says_how_to_start_it(run: Run) -> None:
    """Without a running stack, env prints nothing to evaluate, names the command that mends it, and fails."""
    env = run("env")
    assert (env.returncode, env.stdout) == (1, "")
    assert "pipeline stack up" in env.stderr


def test_down_of_nothing_is_no_error(run: Run) -> None:
    """Down where nothing runs says so and succeeds, and leaves nothing behind."""
    down = run("down")
    assert down.returncode == 0
    assert "No server" in down.stdout


def test_missing_java_is_one_line(run: Run, tmp_path: Path) -> None:
    """Without java and mvn, up names both and the way without them, in one line, and exits with 2."""
    up = run("up", PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert up.returncode == 2
    [line] = up.stderr.splitlines()
    assert "java and mvn" in line
    assert "pip install 'celery-stages[embedded]'" in line
    assert "pipeline dev --services embedded" in line


def test_server_that_cannot_start_shows_its_log(run: Run, tmp_path: Path) -> None:
    """A server that ends at its start is an error at once, with the end of its log, and exit code 1."""
    (tmp_path / "java").write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    (tmp_path / "mvn").write_text('#!/bin/sh\nfor last; do :; done\nmkdir -p "${last#-DoutputDirectory=}"\n')
    for program in ("java", "mvn"):
        (tmp_path / program).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    up = run("up", PATH=path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert up.returncode == 1
    assert "no such luck" in up.stderr


def _servers(run: Run) -> list[psutil.Process]:
    status = run("status", "--json")
    assert status.returncode == 0, status.stdout
    servers = json.loads(status.stdout)
    processes = [psutil.Process(servers[name]["pid"]) for name in ("dynamodb", "elasticmq", "kafka")]
    assert running(processes) == processes
    return processes


def _write(environment: dict[str, str]) -> None:
    bootstrap: dict[str, str | int | float | bool] = {
        "bootstrap.servers": environment["KAFKA_BOOTSTRAP_SERVERS"]
    }
    admin = AdminClient(bootstrap)
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(PATIENCE)
    producer = Producer(bootstrap)
    producer.produce("kept", b"value")
    assert producer.flush(PATIENCE) == 0
    sqs = boto3.client("sqs")
    queue = environment["SQS_TASK_QUEUE_URL"]
    sqs.create_queue(QueueName=queue.rsplit("/", 1)[1], Attributes={"FifoQueue": "true"})
    sqs.send_message(QueueUrl=queue, MessageBody="x", MessageGroupId="g", MessageDeduplicationId="d")
    dynamodb = boto3.client("dynamodb")
    dynamodb.create_table(
        TableName="kept",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    dynamodb.put_item(TableName="kept", Item={"pk": {"S": "a"}})


def _check(environment: dict[str, str]) -> None:
    consumer = Consumer({"bootstrap.servers": environment["KAFKA_BOOTSTRAP_SERVERS"], "group.id": "unused"})
    consumer.assign([TopicPartition("kept", 0, 0)])
    try:
        message = consumer.poll(PATIENCE)
        assert message is not None
        assert message.value() == b"value"
    finally:
        consumer.close()
    queue = environment["SQS_TASK_QUEUE_URL"]
    received = boto3.client("sqs").receive_message(QueueUrl=queue, WaitTimeSeconds=5)
    assert [message["Body"] for message in received["Messages"]] == ["x"]
    items = boto3.client("dynamodb").scan(TableName="kept")["Items"]
    assert items == [{"pk": {"S": "a"}}]
