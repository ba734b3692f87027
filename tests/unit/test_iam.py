"""Policies hold the actions of the calls that the doors make, on what this service has, and no more."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from config.settings import Settings, load_settings
from pipeline.arns import arns_of
from pipeline.cli import main
from pipeline.errors import ConfigurationError
from pipeline.iam import ROLES, Policy, Role, policy
from pipeline.registry import Registry
from pipeline.stages import stage
from tests.iamgate import action_of
from tests.unit.test_settings import REQUIRED

ROOT = Path(__file__).parents[2] / "pipeline"
MSK = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "AWS_MSK_IAM",
    "MSK_CLUSTER_ARN": "arn:aws:kafka:eu-west-1:123456789012:cluster/events/0f7a-5",
}
TOPIC = "arn:aws:kafka:eu-west-1:123456789012:topic/events/0f7a-5"


def _settings(**variables: str) -> Settings:
    queues = "https://sqs.eu-west-1.amazonaws.com/123456789012"
    own = {"SQS_TASK_QUEUE_URL": f"{queues}/orders.fifo", "SQS_DLQ_URL": f"{queues}/orders-dlq.fifo"}
    return load_settings({**REQUIRED, **own, **variables})


def _registry() -> Registry:
    registry = Registry()

    @stage(consumes="letters", emits="words", queue="own.fifo", registry=registry)
    def read(letter: str) -> str:
        return letter

    return registry


def _policy(role: Role, **variables: str) -> Policy:
    return policy(_settings(**variables), _registry(), role)


def _grants(document: Policy) -> dict[str, set[str]]:
    """Resources by action."""
    found: dict[str, set[str]] = {}
    for statement in document["Statement"]:
        for action in statement["Action"]:
            found.setdefault(action, set()).update(statement["Resource"])
    return found


def _operations(package: str) -> Iterator[str]:
    """The operations of boto3 that a package's code calls: methods of a client, or their names as text."""
    for path in (ROOT / package).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(value=ast.Attribute(attr="_client") | ast.Name(id="client"), attr=name):
                    yield name
                case ast.Call(func=ast.Attribute(attr="_ask"), args=[ast.Constant(value=str(name)), *_]):
                    yield name


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


@pytest.mark.parametrize(("package", "service"), [("sqs", "sqs"), ("jobs", "dynamodb")])
def test_all_policies_together_are_what_the_doors_call(package: str, service: str) -> None:
    """A call that is added to a door, or goes, must be added to or go from a policy."""
    called = {action_of(service, _camel(name)) for name in _operations(package)}
    assert len(called) > 5
    given = {action for role in ROLES for action in _grants(_policy(role))}
    assert {action for action in given if action.startswith(f"{service}:")} == called


@pytest.mark.parametrize("role", ROLES)
def test_nothing_is_given_on_everything(role: Role) -> None:
    """Every resource is this service's own: no wildcard, no other queue, table or topic."""
    for resources in _grants(_policy(role, **MSK)).values():
        assert not [arn for arn in resources if "*" in arn or not re.match(r"arn:aws:\w+:eu-west-1:123", arn)]


@pytest.mark.parametrize("role", ["bridge", "worker"])
def test_without_auto_provision_nothing_can_be_made(role: Role) -> None:
    """AUTO_PROVISION=true adds what a start makes, false takes it away."""
    makes = {
        "sqs:CreateQueue",
        "dynamodb:CreateTable",
        "dynamodb:UpdateTimeToLive",
        "kafka-cluster:CreateTopic",
    }
    given = set(_grants(_policy(role, **MSK)))
    assert makes <= given
    assert given - set(_grants(_policy(role, **MSK, AUTO_PROVISION="false"))) == makes


def test_who_may_take_tasks_and_dead_letters() -> None:
    """The bridge sends tasks and takes none; the worker takes no dead letter."""
    queue, dlq = (f"arn:aws:sqs:eu-west-1:123456789012:{name}" for name in ("orders.fifo", "orders-dlq.fifo"))
    own = "arn:aws:sqs:eu-west-1:123456789012:own.fifo"
    bridge, worker, operator = (_grants(_policy(role)) for role in ROLES)
    assert bridge["sqs:SendMessage"] == {queue, own, dlq}
    assert bridge["sqs:ReceiveMessage"] == {dlq}
    assert worker["sqs:DeleteMessage"] == {queue, own}
    assert worker["sqs:SendMessage"] == {queue, own, dlq}
    assert bridge["sqs:DeleteMessage"] == operator["sqs:DeleteMessage"] == {dlq}


def test_the_index_is_named_for_those_who_ask_it() -> None:
    """Listing jobs asks the index, which has an ARN of its own."""
    table = "arn:aws:dynamodb:eu-west-1:123456789012:table/pipeline-jobs"
    assert f"{table}/index/jobs-by-time" in _grants(_policy("operator"))["dynamodb:Query"]
    assert _grants(_policy("worker"))["dynamodb:Query"] == {table}


def test_msk_grants_each_process_its_topics_and_group() -> None:
    """The bridge reads what stages consume in its group; the worker writes what they emit."""
    bridge, worker = (_grants(_policy(role, **MSK)) for role in ("bridge", "worker"))
    assert bridge["kafka-cluster:ReadData"] == {f"{TOPIC}/letters", f"{TOPIC}/orders-dlq"}
    assert bridge["kafka-cluster:AlterGroup"] == {f"{TOPIC.replace(':topic', ':group')}/orders"}
    assert bridge["kafka-cluster:WriteData"] == {
        f"{TOPIC}/{name}" for name in ("processing-errors", "orders-dlq", "jobs")
    }
    assert f"{TOPIC}/words" in worker["kafka-cluster:WriteData"]
    assert f"{TOPIC}/letters" not in worker["kafka-cluster:WriteData"]
    assert worker["kafka-cluster:Connect"] == {MSK["MSK_CLUSTER_ARN"]}


def test_of_the_control_plane_each_has_what_the_table_of_flower_says() -> None:
    """Only an operator commands workers; a worker reads commands, and writes events and replies."""
    found = {}
    for role in ROLES:
        grants = _grants(_policy(role, **MSK))
        for action in ("ReadData", "WriteData"):
            topics = {each.rsplit("/", 1)[1] for each in grants[f"kafka-cluster:{action}"]}
            found[role, action] = {each.split(".control.")[1] for each in topics if ".control." in each}
    assert found == {
        ("bridge", "ReadData"): set(),
        ("bridge", "WriteData"): set(),
        ("worker", "ReadData"): {"commands"},
        ("worker", "WriteData"): {"events", "replies"},
        ("operator", "ReadData"): {"commands", "events", "replies"},
        ("operator", "WriteData"): {"commands"},
    }


def test_without_msks_own_access_control_kafka_is_not_in_it() -> None:
    """Kafka's ACLs are granted on Kafka."""
    assert not [action for role in ROLES for action in _grants(_policy(role)) if action.startswith("kafka")]


def test_msk_needs_its_cluster_named() -> None:
    """Topics' ARNs hold the cluster's name and id, which nothing else tells."""
    with pytest.raises(ConfigurationError, match="MSK_CLUSTER_ARN"):
        _policy("bridge", **{**MSK, "MSK_CLUSTER_ARN": ""})


@pytest.mark.parametrize(
    ("host", "region", "partition"),
    [
        ("sqs.eu-west-1.amazonaws.com", "eu-west-1", "aws"),
        ("eu-west-1.queue.amazonaws.com", "eu-west-1", "aws"),
        ("sqs-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1", "aws-us-gov"),
        ("sqs.cn-north-1.amazonaws.com.cn", "cn-north-1", "aws-cn"),
        ("vpce-1-abc.sqs.us-east-2.vpce.amazonaws.com", "us-east-2", "aws"),
        ("queue.amazonaws.com", "ap-south-1", "aws"),
        ("localhost:9324", "ap-south-1", "aws"),
    ],
)
def test_the_region_is_where_the_queue_is(host: str, region: str, partition: str) -> None:
    """The queue's host tells the region; where it does not, AWS_DEFAULT_REGION does."""
    settings = _settings(
        SQS_TASK_QUEUE_URL=f"https://{host}/123456789012/orders.fifo", AWS_DEFAULT_REGION="ap-south-1"
    )
    arn = arns_of(settings).queue(settings.sqs_task_queue_url)
    assert arn == f"arn:{partition}:sqs:{region}:123456789012:orders.fifo"


@pytest.mark.parametrize("url", ["http://localhost:9324/queue/a.fifo", "http://localhost:9324/1/a.fifo"])
def test_a_url_that_tells_too_little_is_refused(url: str) -> None:
    """Without account or region there is no ARN."""
    with pytest.raises(ConfigurationError, match="SQS_TASK_QUEUE_URL"):
        arns_of(_settings(SQS_TASK_QUEUE_URL=url))


def test_the_command_prints_the_policy_and_asks_no_service() -> None:
    """``pipeline provision --iam worker`` needs no services: it prints JSON."""
    environment = {**REQUIRED, "AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:1", "TASK_MODULES": "tasks"}
    result = CliRunner().invoke(main, ["provision", "--iam", "worker"], env=environment)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["Version"] == "2012-10-17"
