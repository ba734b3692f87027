"""Policies allow exactly the calls that the doors make, on this service's resources only."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.cli import main
from pipeline.errors import ConfigurationError
from pipeline.infra.arns import arns_of
from pipeline.infra.iam import Policy, policy
from pipeline.infra.needs import ROLES, Role
from pipeline.jobs import JobState
from pipeline.jobs.keys import Keys
from pipeline.settings import Settings, load_settings
from tests.iamgate import LEADING_KEYS, STATEMENTS, action_of, allows
from tests.unit.test_settings import REQUIRED

ROOT = Path(__file__).parents[2] / "pipeline"
MSK = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "AWS_MSK_IAM",
    "MSK_CLUSTER_ARN": "arn:aws:kafka:eu-west-1:123456789012:cluster/events/0f7a-5",
}
TOPIC = "arn:aws:kafka:eu-west-1:123456789012:topic/events/0f7a-5"
TABLE = "arn:aws:dynamodb:eu-west-1:123456789012:table/pipeline-jobs"

KEY = "arn:aws:kms:eu-west-1:123456789012:key/0f7a5b3c-1d2e-4f60-8a9b-c0d1e2f3a4b5"

#: SERVICE_NAME as the settings accept it.
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"

#: Topics on which services speak to each other: those of the stages, and the ends of jobs.
COMMON_TOPICS = {"letters", "words", "jobs", "processing-errors"}


def _settings(**variables: str) -> Settings:
    queues = "https://sqs.eu-west-1.amazonaws.com/123456789012"
    own = {"SQS_TASK_QUEUE_URL": f"{queues}/orders.fifo", "SQS_DLQ_URL": f"{queues}/orders-dlq.fifo"}
    return load_settings({**REQUIRED, **own, **variables})


def _registry(queue: str = "own.fifo") -> Registry:
    registry = Registry()

    @stage(consumes="letters", emits="words", queue=queue, registry=registry)
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
                    # Region and partition of a client: no request.
                    if name != "meta":
                        yield name
                case ast.Call(func=ast.Attribute(attr="_ask"), args=[ast.Constant(value=str(name)), *_]):
                    yield name


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


@pytest.mark.parametrize(("package", "service"), [("sqs", "sqs"), ("jobs", "dynamodb")])
def test_all_policies_together_are_what_the_doors_call(package: str, service: str) -> None:
    """A call that is added to a door, or goes, must be added to or go from a policy."""
    operations = set(map(_camel, _operations(package)))
    if "BatchExecuteStatement" in operations:
        operations = operations - {"BatchExecuteStatement"} | set(STATEMENTS.values())
    called = {action_of(service, operation) for operation in operations}
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
        "dynamodb:UpdateContinuousBackups",
        "dynamodb:UpdateTimeToLive",
        "kafka-cluster:CreateTopic",
    }
    given = set(_grants(_policy(role, **MSK)))
    assert makes <= given
    assert given - set(_grants(_policy(role, **MSK, AUTO_PROVISION="false"))) == makes


def test_who_may_take_tasks_and_dead_letters() -> None:
    """The bridge sends tasks and takes none; the worker takes no dead letter; the page may not send one."""
    queue, dlq = (f"arn:aws:sqs:eu-west-1:123456789012:{name}" for name in ("orders.fifo", "orders-dlq.fifo"))
    own = "arn:aws:sqs:eu-west-1:123456789012:own.fifo"
    bridge, worker, web, viewer, operator = (_grants(_policy(role)) for role in ROLES)
    assert bridge["sqs:SendMessage"] == {queue, own, dlq}
    assert bridge["sqs:ReceiveMessage"] == {dlq}
    assert worker["sqs:DeleteMessage"] == {queue, own}
    assert worker["sqs:SendMessage"] == {queue, own, dlq}
    assert bridge["sqs:DeleteMessage"] == operator["sqs:DeleteMessage"] == web["sqs:DeleteMessage"] == {dlq}
    assert web["sqs:SendMessage"] == {queue, own}
    assert viewer["sqs:ReceiveMessage"] == {dlq}


@pytest.mark.parametrize("role", ROLES)
def test_a_key_is_used_through_the_services_only(role: Role) -> None:
    """Each process may use KMS_KEY_ARN through SQS and DynamoDB; only those that make the table grant it."""
    assert not [action for action in _grants(_policy(role)) if action.startswith("kms:")]
    document = _policy(role, KMS_KEY_ARN=KEY, AUTO_PROVISION="false")
    (statement,) = (each for each in document["Statement"] if each["Sid"] == "Key")
    assert statement["Resource"] == [KEY]
    services = statement["Condition"]["StringLike"]["kms:ViaService"]
    assert services == [f"{service}.eu-west-1.amazonaws.*" for service in ("dynamodb", "sqs")]
    assert {"kms:Decrypt", "kms:GenerateDataKey"} <= set(statement["Action"])
    assert ("kms:CreateGrant" in statement["Action"]) == (role == "operator")
    made = _grants(_policy(role, KMS_KEY_ARN=KEY))
    assert ("kms:CreateGrant" in made) == (role in ("bridge", "worker", "operator"))


def test_who_may_put_and_read_payloads() -> None:
    """A bridge puts and reads none, a worker both; of other services only events."""
    bucket = "arn:aws:s3:::orders-payloads"
    own, events = f"{bucket}/{_settings().service_name}/*", f"{bucket}/*/event/*"
    policies = [_policy(role, PAYLOAD_BUCKET="orders-payloads", AUTO_PROVISION="false") for role in ROLES]
    bridge, worker, web, viewer, operator = map(_grants, policies)
    assert bridge["s3:PutObject"] == worker["s3:PutObject"] == web["s3:PutObject"] == {own}
    assert worker["s3:GetObject"] == operator["s3:GetObject"] == {own, events}
    assert not {"s3:GetObject"} & (bridge.keys() | web.keys() | viewer.keys())
    assert "s3:PutObject" not in viewer
    assert all(each["s3:ListBucket"] == {bucket} for each in (bridge, worker, web, viewer, operator))
    assert "s3:PutLifecycleConfiguration" in operator
    assert not [each for each in {**bridge, **worker, **web, **viewer} if each.startswith("s3:PutB")]
    assert "s3:CreateBucket" in _grants(_policy("worker", PAYLOAD_BUCKET="orders-payloads"))
    alone = _grants(_policy("bridge", PAYLOAD_BUCKET="orders-payloads", USE_SQS_TASK_PROCESSING="false"))
    assert alone["s3:GetObject"] == {own, events}
    assert not [each for role in ROLES for each in _grants(_policy(role)) if each.startswith("s3:")]


def test_a_key_is_used_through_s3_where_a_bucket_is() -> None:
    """And not otherwise."""
    document = _policy("worker", KMS_KEY_ARN=KEY, PAYLOAD_BUCKET="orders-payloads")
    (statement,) = (each for each in document["Statement"] if each["Sid"] == "Key")
    services = statement["Condition"]["StringLike"]["kms:ViaService"]
    assert services == [f"{service}.eu-west-1.amazonaws.*" for service in ("dynamodb", "s3", "sqs")]


def test_a_page_that_only_shows_may_write_nothing() -> None:
    """With WEB_READ_ONLY=true the only change is that a dead letter is visible again after a look at it."""
    reads = re.compile(
        r"(sqs|dynamodb):(Get|BatchGet|Describe|Query|ReceiveMessage)|kafka-cluster:(Describe|Read)"
    )
    given = set(_grants(_policy("web-read-only", **MSK)))
    assert {each for each in given if not reads.match(each)} == {
        "sqs:ChangeMessageVisibility",
        "kafka-cluster:Connect",
    }


def test_the_page_makes_and_changes_no_queue_table_or_topic() -> None:
    """Unlike the operator, also while AUTO_PROVISION=true lets other processes make what is missing."""
    for role in ("web", "web-read-only"):
        given = set(_grants(_policy(role, **MSK)))
        assert not [each for each in given if re.search("Create|Alter|UpdateT|SetQueue|Purge", each)]


#: Calls about items: the action, and whether it is asked of the index.
ITEM_CALLS = [
    ("GetItem", False),
    ("Query", False),
    ("Query", True),
    ("BatchGetItem", False),
    ("BatchWriteItem", False),
    ("PartiQLInsert", False),
    ("PartiQLUpdate", False),
    ("PutItem", False),
    ("UpdateItem", False),
]


@example(names=["orders", "orders-2"])
@given(names=st.lists(st.from_regex(NAME, fullmatch=True), min_size=2, max_size=2, unique=True))
@pytest.mark.parametrize("role", ROLES)
def test_items_of_another_service_in_the_same_table_are_denied(role: Role, names: list[str]) -> None:
    """Two services of any names have their own items each, and never the other's."""
    mine, other = (Keys(service=name) for name in names)
    document = _policy(role, SERVICE_NAME=names[0])
    granted = set(_grants(document))
    for action, of_index in ITEM_CALLS:
        request = f"dynamodb:{action}", f"{TABLE}/index/jobs-by-time" if of_index else TABLE
        own, foreign = ({_key(keys, of_index)} for keys in (mine, other))
        may = f"dynamodb:{action}" in granted and (not of_index or role != "worker")
        assert allows(document, request, {LEADING_KEYS: own}) == may
        assert not allows(document, request, {LEADING_KEYS: foreign})
        # One foreign key in a batch, and a request without any key.
        assert not allows(document, request, {LEADING_KEYS: own | foreign})
        assert not allows(document, request, {})


def _key(keys: Keys, of_index: bool) -> str:
    return keys.index(JobState.RUNNING, "j", 0, 4)[0] if of_index else keys.job("j")


@pytest.mark.parametrize("role", ROLES)
def test_queues_topics_and_groups_of_another_service_are_not_granted(role: Role) -> None:
    """Two services on one account, table and cluster share no queue and no group, and only common topics."""
    one, other = (
        _grants(policy(_settings(**MSK, **_service(name)), _registry(f"{name}-own.fifo"), role))
        for name in ("payments", "marketing")
    )
    shared = {each for resources in one.values() for each in resources} & {
        each for resources in other.values() for each in resources
    }
    common = {f"{TOPIC}/{name}" for name in COMMON_TOPICS}
    assert shared <= {TABLE, f"{TABLE}/index/jobs-by-time", MSK["MSK_CLUSTER_ARN"]} | common


def _service(name: str) -> dict[str, str]:
    queues = "https://sqs.eu-west-1.amazonaws.com/123456789012"
    return {
        "SERVICE_NAME": name,
        "KAFKA_CONSUMER_GROUP": name,
        "SQS_TASK_QUEUE_URL": f"{queues}/{name}.fifo",
        "SQS_DLQ_URL": f"{queues}/{name}-dlq.fifo",
    }


def test_the_index_is_named_for_those_who_ask_it() -> None:
    """Listing jobs asks the index, which has an ARN of its own."""
    table = "arn:aws:dynamodb:eu-west-1:123456789012:table/pipeline-jobs"
    assert f"{table}/index/jobs-by-time" in _grants(_policy("operator"))["dynamodb:Query"]
    assert _grants(_policy("worker"))["dynamodb:Query"] == {table}


@pytest.mark.parametrize("role", ROLES)
def test_the_index_by_entity_is_granted_to_those_who_list_jobs(role: Role) -> None:
    """Where there is one, and only the items of the own service, as in the other index."""
    index = f"{TABLE}/index/jobs-by-entity"
    document = _policy(role, DYNAMODB_ENTITY_INDEX_SINCE="2026-03-01")
    request = "dynamodb:Query", index
    assert allows(document, request, {LEADING_KEYS: {Keys(service="orders").entity("ada")}}) == (
        role != "worker"
    )
    assert not allows(document, request, {LEADING_KEYS: {Keys(service="other").entity("ada")}})
    assert index not in json.dumps(_policy(role))
    # AWS refuses a statement without actions.
    assert all(each["Action"] for each in document["Statement"])


def test_msk_grants_each_process_its_topics_and_group() -> None:
    """The bridge reads what stages consume in its group; the worker writes what they emit."""
    bridge, worker = (_grants(_policy(role, **MSK)) for role in ("bridge", "worker"))
    assert bridge["kafka-cluster:ReadData"] == {f"{TOPIC}/letters", f"{TOPIC}/orders-dlq"}
    assert bridge["kafka-cluster:AlterGroup"] == {f"{TOPIC.replace(':topic', ':group')}/orders"}
    assert bridge["kafka-cluster:WriteData"] == {
        f"{TOPIC}/{name}" for name in ("orders-errors", "orders-dlq", "jobs")
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
            topics = {each.rsplit("/", 1)[1] for each in grants.get(f"kafka-cluster:{action}", set())}
            found[role, action] = {each.split(".control.")[1] for each in topics if ".control." in each}
    assert found == {
        ("bridge", "ReadData"): set(),
        ("bridge", "WriteData"): set(),
        ("worker", "ReadData"): {"commands"},
        ("worker", "WriteData"): {"events", "replies"},
        ("web", "ReadData"): {"events"},
        ("web", "WriteData"): set(),
        ("web-read-only", "ReadData"): {"events"},
        ("web-read-only", "WriteData"): set(),
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
    environment = {
        **REQUIRED,
        "AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:1",
        "TASK_MODULES": "pipeline.demo.documents",
    }
    result = CliRunner().invoke(main, ["provision", "--iam", "worker"], env=environment)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["Version"] == "2012-10-17"
