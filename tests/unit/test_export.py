"""The exported templates hold what provision makes, in the terms of CloudFormation and Terraform."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.cli import main
from pipeline.infra.export import cloudformation, labels, terraform
from pipeline.infra.needs import queue_needs, topic_needs
from pipeline.infra.queuepolicy import is_tls_only
from pipeline.settings import Settings, load_settings
from tests.unit.test_settings import REQUIRED, SCRAM, TOKENS

SCHEMAS = json.loads((Path(__file__).parents[1] / "data" / "terraform-aws.json").read_text())
KEY = "arn:aws:kms:eu-west-1:123456789012:key/0f7a5b3c-1d2e-4f60-8a9b-c0d1e2f3a4b5"
CLUSTER = "arn:aws:kafka:eu-west-1:123456789012:cluster/events/0f7a5b3c-1d2e-4f60-8a9b-c0d1e2f3a4b5-6"


@pytest.fixture
def registry() -> Registry:
    registry = Registry()

    @stage(consumes="letters", emits="words", queue="own.fifo", retries=9, registry=registry)
    def read(letter: str) -> str:
        return letter

    return registry


def _settings(**variables: str) -> Settings:
    queues = "https://sqs.eu-west-1.amazonaws.com/123456789012"
    own = {"SQS_TASK_QUEUE_URL": f"{queues}/orders.fifo", "SQS_DLQ_URL": f"{queues}/orders-dlq.fifo"}
    return load_settings({**REQUIRED, **own, **variables})


def _resources(template: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """Properties of the resources of a kind, by the label."""
    found = template["Resources"].items()
    return {name: each["Properties"] for name, each in found if each["Type"] == kind}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("cluster", ["", CLUSTER])
def test_cloudformation_takes_the_template(registry: Registry, cluster: str) -> None:
    """cfn-lint, with AWS's schemas of every resource, finds nothing: no error, no warning, no remark."""
    template = cloudformation(_settings(MSK_CLUSTER_ARN=cluster), registry)
    assert [str(match) for match in lint(json.dumps(template), regions=["eu-west-1"])] == []


def test_the_template_encrypts_denies_plaintext_and_recovers(registry: Registry) -> None:
    """With a key: cfn-lint takes it; each queue has its policy, the table its key and its recovery."""
    template = cloudformation(_settings(KMS_KEY_ARN=KEY), registry)
    assert [str(match) for match in lint(json.dumps(template), regions=["eu-west-1"])] == []
    queues = _resources(template, "AWS::SQS::Queue")
    assert {each["KmsMasterKeyId"] for each in queues.values()} == {KEY}
    policies = _resources(template, "AWS::SQS::QueuePolicy").values()
    assert [each["Queues"] for each in policies] == [[{"Ref": label}] for label in queues]
    assert all(is_tls_only(json.dumps(each["PolicyDocument"])) for each in policies)
    (table,) = _resources(template, "AWS::DynamoDB::Table").values()
    assert table["SSESpecification"]["KMSMasterKeyId"] == KEY
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


@pytest.mark.parametrize("key", ["", KEY])
def test_the_bucket_of_payloads_is_in_both_forms(registry: Registry, key: str) -> None:
    """With its rule, its encryption, no public access and TLS only; cfn-lint takes it."""
    settings = _settings(PAYLOAD_BUCKET="orders-payloads", KMS_KEY_ARN=key)
    template = cloudformation(settings, registry)
    assert lint(json.dumps(template), regions=["eu-west-1"]) == []
    (bucket,) = _resources(template, "AWS::S3::Bucket").values()
    rule = bucket["LifecycleConfiguration"]["Rules"][0]
    assert (rule["Prefix"], rule["ExpirationInDays"]) == (f"{settings.service_name}/", 73)
    assert (key or "AES256") in json.dumps(bucket["BucketEncryption"])
    assert len(_resources(template, "AWS::S3::BucketPolicy")) == 1
    resources = terraform(settings, registry)["resource"]
    lifecycle = resources["aws_s3_bucket_lifecycle_configuration"]["payloads"]["rule"][0]
    assert lifecycle["expiration"] == {"days": 73}
    assert lifecycle["filter"] == {"prefix": f"{settings.service_name}/"}
    assert all(
        resources["aws_s3_bucket_public_access_block"]["payloads"][name] is True
        for name in ("block_public_acls", "restrict_public_buckets")
    )
    assert "aws:SecureTransport" in resources["aws_s3_bucket_policy"]["payloads"]["policy"]
    assert not _resources(cloudformation(_settings(), registry), "AWS::S3::Bucket")


def test_terraform_encrypts_denies_plaintext_and_recovers(registry: Registry) -> None:
    """The same, in Terraform's arguments; without a key of one's own SQS's."""
    resources = terraform(_settings(KMS_KEY_ARN=KEY), registry)["resource"]
    for kind, schema in SCHEMAS.items():
        for each in resources[kind].values():
            arguments = {name: value for name, value in each.items() if name != "lifecycle"}
            Draft202012Validator(schema).validate(arguments)
    for queue in resources["aws_sqs_queue"].values():
        assert queue["kms_master_key_id"] == KEY
        assert queue["name"] in json.loads(queue["policy"])["Statement"][0]["Resource"]
        assert is_tls_only(queue["policy"])
    table = resources["aws_dynamodb_table"]["jobs"]
    assert table["server_side_encryption"] == {"enabled": True, "kms_key_arn": KEY}
    assert table["point_in_time_recovery"] == {"enabled": True}
    plain = terraform(_settings(), registry)["resource"]
    assert all(queue["sqs_managed_sse_enabled"] for queue in plain["aws_sqs_queue"].values())
    assert "server_side_encryption" not in plain["aws_dynamodb_table"]["jobs"]


def test_topics_of_no_stage_have_few_partitions_in_both_forms(registry: Registry) -> None:
    """As provision makes them; a service that has more of them sets the number."""
    for number in (1, 6):
        settings = _settings(MSK_CLUSTER_ARN=CLUSTER, SERVICE_TOPIC_PARTITIONS=str(number))
        names = {settings.topic(name) for name in ("errors", "dlq", "jobs")}
        topics = _resources(cloudformation(settings, registry), "AWS::MSK::Topic").values()
        assert {each["PartitionCount"] for each in topics if each["TopicName"] in names} == {number}
        made = terraform(settings, registry)["resource"]["kafka_topic"].values()
        assert [each["partitions"] for each in made if each["name"] in names] == [number] * 3


def test_the_table_is_as_warm_as_the_setting_says(registry: Registry) -> None:
    """Table and index, in both forms; without the setting neither says anything."""
    settings = _settings(DYNAMODB_WARM_WRITES="20000")
    template = cloudformation(settings, registry)
    assert [str(match) for match in lint(json.dumps(template), regions=["eu-west-1"])] == []
    (table,) = _resources(template, "AWS::DynamoDB::Table").values()
    for each in (table, *table["GlobalSecondaryIndexes"]):
        assert each["WarmThroughput"] == {"WriteUnitsPerSecond": 20_000}
    made = terraform(settings, registry)["resource"]["aws_dynamodb_table"]["jobs"]
    arguments = {name: value for name, value in made.items() if name != "lifecycle"}
    Draft202012Validator(SCHEMAS["aws_dynamodb_table"]).validate(arguments)
    for each in (made, *made["global_secondary_index"]):
        assert each["warm_throughput"] == {"write_units_per_second": 20_000}
    assert "WarmThroughput" not in json.dumps(cloudformation(_settings(), registry))
    assert "warm_throughput" not in json.dumps(terraform(_settings(), registry))


def test_the_index_by_entity_is_in_both_forms_where_it_is_wanted(registry: Registry) -> None:
    """Keys only, beside the other one."""
    settings = _settings(DYNAMODB_ENTITY_INDEX_SINCE="2026-03-01")
    template = cloudformation(settings, registry)
    assert [str(match) for match in lint(json.dumps(template), regions=["eu-west-1"])] == []
    (table,) = _resources(template, "AWS::DynamoDB::Table").values()
    names = ["jobs-by-time", "jobs-by-entity"]
    assert [each["IndexName"] for each in table["GlobalSecondaryIndexes"]] == names
    made = terraform(settings, registry)["resource"]["aws_dynamodb_table"]["jobs"]
    arguments = {name: value for name, value in made.items() if name != "lifecycle"}
    Draft202012Validator(SCHEMAS["aws_dynamodb_table"]).validate(arguments)
    assert [each["name"] for each in made["global_secondary_index"]] == names
    assert made["global_secondary_index"][1] == {
        "name": "jobs-by-entity",
        "hash_key": "epk",
        "range_key": "isk",
        "projection_type": "KEYS_ONLY",
    }
    for form in (cloudformation, terraform):
        assert "epk" not in json.dumps(form(_settings(), registry))


def test_cfn_lint_would_find_a_fault(registry: Registry) -> None:
    """The check can fail: a property that SQS does not have is found."""
    template = cloudformation(_settings(), registry)
    template["Resources"]["DeadLetterQueue"]["Properties"]["Visibility"] = 3
    assert lint(json.dumps(template), regions=["eu-west-1"])


def test_the_template_has_every_queue_as_provision_makes_it(registry: Registry) -> None:
    """Each queue with each attribute and its way to the dead-letter queue."""
    settings = _settings()
    queues = _resources(cloudformation(settings, registry), "AWS::SQS::Queue")
    needs = queue_needs(settings, registry)
    assert list(queues) == ["DeadLetterQueue", "QueueOrders", "QueueOwn"]
    for need, properties in zip(needs, queues.values(), strict=True):
        assert {name: _text(properties[name]) for name in need.attributes} == need.attributes
        assert (properties["QueueName"], properties["FifoQueue"]) == (need.name, True)
        policy = properties.get("RedrivePolicy", {})
        assert policy.get("maxReceiveCount", 0) == need.max_receive_count
        assert (policy.get("deadLetterTargetArn") is not None) == (need.max_receive_count > 0)


def test_topics_are_in_the_template_on_msk(registry: Registry) -> None:
    """With MSK_CLUSTER_ARN each topic is a resource, configured as MSK takes it; else there is none."""
    settings = _settings(MSK_CLUSTER_ARN=CLUSTER)
    topics = _resources(cloudformation(settings, registry), "AWS::MSK::Topic")
    for need, properties in zip(topic_needs(settings, registry), topics.values(), strict=True):
        lines = base64.b64decode(properties["Configs"]).decode().splitlines()
        assert dict(line.split("=", 1) for line in lines) == need.config
        assert (properties["TopicName"], properties["PartitionCount"]) == (need.name, need.partitions)
    assert not _resources(cloudformation(_settings(), registry), "AWS::MSK::Topic")


def test_terraform_knows_every_argument(registry: Registry) -> None:
    """Queues and table hold only arguments that the AWS provider has, with the types it takes."""
    resources = terraform(_settings(), registry)["resource"]
    for kind, schema in SCHEMAS.items():
        for each in resources[kind].values():
            arguments = {name: value for name, value in each.items() if name != "lifecycle"}
            Draft202012Validator(schema).validate(arguments)


def test_terraform_has_all_that_provision_makes(registry: Registry) -> None:
    """Every queue, topic and the table, each once."""
    settings = _settings()
    resources = terraform(settings, registry)["resource"]
    queues = [each["name"] for each in resources["aws_sqs_queue"].values()]
    assert queues == [need.name for need in queue_needs(settings, registry)]
    topics = {each["name"]: each["config"] for each in resources["kafka_topic"].values()}
    assert topics == {need.name: dict(need.config) for need in topic_needs(settings, registry)}
    assert resources["aws_dynamodb_table"]["jobs"]["global_secondary_index"][0]["name"] == "jobs-by-time"


def test_no_secret_is_exported(registry: Registry) -> None:
    """The provider finds user and password in its own environment."""
    settings = _settings(**SCRAM)
    exported = json.dumps([terraform(settings, registry), cloudformation(settings, registry)])
    assert SCRAM["KAFKA_SASL_PASSWORD"] not in exported
    assert SCRAM["KAFKA_SASL_USERNAME"] not in exported
    assert "scram-sha512" in exported


def test_a_provider_of_tokens_is_exported_without_its_secret(registry: Registry) -> None:
    """Terraform's provider gets tokens from the same address; id and secret are in its own environment."""
    kafka = terraform(_settings(**TOKENS, KAFKA_OAUTH_SCOPE="read write"), registry)["provider"]["kafka"]
    assert kafka["sasl_mechanism"] == "oauthbearer"
    assert kafka["sasl_token_url"] == TOKENS["KAFKA_OAUTH_TOKEN_URL"]
    assert kafka["sasl_oauth_scopes"] == ["read", "write"]
    assert TOKENS["KAFKA_OAUTH_CLIENT_SECRET"] not in json.dumps(kafka)


def _terraform(folder: Path, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["terraform", *arguments],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("terraform") is None, reason="needs the terraform command")
def test_terraform_reads_the_configuration(registry: Registry, tmp_path: Path) -> None:
    """Terraform itself parses it and names both providers. Their own checks need the providers' download."""
    configuration = terraform(_settings(), registry)
    (tmp_path / "pipeline.tf.json").write_text(json.dumps(configuration))
    output = _terraform(tmp_path, "providers")
    assert "hashicorp/aws" in output
    assert "kafka" in output
    policy = configuration["resource"]["aws_sqs_queue"]["tasks_own"]["redrive_policy"]
    expression = policy.removeprefix("${").removesuffix("}")
    literal = expression.replace("aws_sqs_queue.dead_letters.arn", '"arn"')
    empty = tmp_path / "empty"
    empty.mkdir()
    shown = json.loads(json.loads(_terraform(empty, "console", stdin=literal)))
    assert shown == {"deadLetterTargetArn": "arn", "maxReceiveCount": 120}


def test_two_names_never_share_a_label() -> None:
    """Names that differ only in what a label cannot hold are told apart."""
    assert labels(["a-b.fifo", "a_b.fifo", "a.b"], "_") == {
        "a-b.fifo": "a_b",
        "a_b.fifo": "a_b2",
        "a.b": "a_b3",
    }
    assert labels(["order-paid", "order.paid"], "") == {"order-paid": "OrderPaid", "order.paid": "OrderPaid2"}


@pytest.mark.parametrize("form", ["cloudformation", "terraform"])
def test_the_command_prints_json_and_asks_no_service(form: str) -> None:
    """Standard output is the template and nothing else, also where a remark is made."""
    variables = {**REQUIRED, "AWS_DEFAULT_REGION": "eu-west-1", "AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:1"}
    result = CliRunner().invoke(main, ["provision", "--export", form], env=variables)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)
    assert ("No topics" in result.stderr) is (form == "cloudformation")


def test_printing_and_changing_exclude_each_other() -> None:
    """One run does one thing."""
    result = CliRunner().invoke(main, ["provision", "--update", "--iam", "worker"], env=REQUIRED)
    assert result.exit_code == 2
