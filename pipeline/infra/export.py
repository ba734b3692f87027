"""Templates of a service's needs for those who provision with CloudFormation or Terraform."""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.author.registry import Registry
from pipeline.infra.arns import Arns, arns_of
from pipeline.infra.needs import QueueNeed, TableNeed, TopicNeed, queue_needs, table_need, topic_needs
from pipeline.infra.queuepolicy import tls_only_policy, with_tls_only
from pipeline.payloads.bucket import PUBLIC_ACCESS_BLOCK, BucketNeed, bucket_need
from pipeline.payloads.bucket import tls_only_policy as bucket_tls_only_policy
from pipeline.settings import SaslMechanism, Settings

Value = str | int | bool

#: Attributes of a queue that are true or false, and that are numbers; SQS itself takes all as text.
_SWITCHES = frozenset({"ContentBasedDeduplication", "FifoQueue", "SqsManagedSseEnabled"})
_NUMBERS = frozenset(
    {"MaximumMessageSize", "MessageRetentionPeriod", "ReceiveMessageWaitTimeSeconds", "VisibilityTimeout"}
)

#: Resources that hold unfinished work: CloudFormation keeps them when the stack is deleted or a change would
#: replace them, and "terraform destroy" refuses.
_RETAINED = {"DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain"}
_PROTECTED = {"lifecycle": {"prevent_destroy": True}}

#: Terraform's providers: HashiCorp's own, and the one for any Kafka that speaks its admin protocol. AWS's
#: takes a max_message_size of 1 MiB since 6.8.0 (its changelog, #43710).
_PROVIDERS = {
    "aws": {"source": "hashicorp/aws", "version": ">= 6.8.0"},
    "kafka": {"source": "Mongey/kafka", "version": ">= 0.8"},
}

#: Terraform's names for a queue's attributes.
_ATTRIBUTES = {
    "ContentBasedDeduplication": "content_based_deduplication",
    "DeduplicationScope": "deduplication_scope",
    "FifoThroughputLimit": "fifo_throughput_limit",
    "KmsMasterKeyId": "kms_master_key_id",
    "MaximumMessageSize": "max_message_size",
    "MessageRetentionPeriod": "message_retention_seconds",
    "ReceiveMessageWaitTimeSeconds": "receive_wait_time_seconds",
    "SqsManagedSseEnabled": "sqs_managed_sse_enabled",
    "VisibilityTimeout": "visibility_timeout_seconds",
}

#: The Kafka provider's names for ways to log in.
_MECHANISMS: dict[SaslMechanism, str] = {
    "PLAIN": "plain",
    "SCRAM-SHA-256": "scram-sha256",
    "SCRAM-SHA-512": "scram-sha512",
    # Its user and password are the client's id and secret.
    "OAUTHBEARER": "oauthbearer",
    "AWS_MSK_IAM": "aws-iam",
}


def cloudformation(settings: Settings, registry: Registry) -> dict[str, Any]:
    """Return a CloudFormation template, with topics if MSK_CLUSTER_ARN names their cluster.

    CloudFormation has no resource type for the topics of other Kafkas.
    """
    dead_letters, *queues = queue_needs(settings, registry)
    names = labels([need.name for need in queues], "")
    labelled_queues = {
        "DeadLetterQueue": dead_letters,
        **{f"Queue{names[need.name]}": need for need in queues},
    }
    resources = {
        **{label: _cloudformation_queue(need) for label, need in labelled_queues.items()},
        **{
            f"{label}Policy": _cloudformation_policy(label)
            for label, need in labelled_queues.items()
            if need.tls_only
        },
        "JobsTable": _cloudformation_table(table_need(settings)),
        **_cloudformation_bucket(bucket_need(settings)),
    }
    description = f"Queues and table of {settings.service_name}"
    if settings.msk_cluster_arn:
        topics = topic_needs(settings, registry)
        labelled = labels([need.name for need in topics], "")
        resources |= {
            f"Topic{labelled[need.name]}": _cloudformation_topic(need, settings.msk_cluster_arn)
            for need in topics
        }
        description = f"Queues, table and topics of {settings.service_name}"
    return {"AWSTemplateFormatVersion": "2010-09-09", "Description": description, "Resources": resources}


def _cloudformation_queue(need: QueueNeed) -> dict[str, Any]:
    properties: dict[str, Any] = {"QueueName": need.name, "FifoQueue": True, **_values(need.attributes)}
    if need.max_receive_count:
        properties["RedrivePolicy"] = {
            "deadLetterTargetArn": {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]},
            "maxReceiveCount": need.max_receive_count,
        }
    return {"Type": "AWS::SQS::Queue", **_RETAINED, "Properties": properties}


def _cloudformation_policy(label: str) -> dict[str, Any]:
    policy = tls_only_policy({"Fn::GetAtt": [label, "Arn"]})
    return {
        "Type": "AWS::SQS::QueuePolicy",
        "Properties": {"Queues": [{"Ref": label}], "PolicyDocument": policy},
    }


def _cloudformation_table(need: TableNeed) -> dict[str, Any]:
    properties: dict[str, Any] = {
        **need.definition,
        "TimeToLiveSpecification": {"AttributeName": need.expiry, "Enabled": True},
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
    }
    if need.key:
        properties["SSESpecification"] = {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": need.key}
    return {"Type": "AWS::DynamoDB::Table", **_RETAINED, "Properties": properties}


def _cloudformation_bucket(need: BucketNeed | None) -> dict[str, Any]:
    if need is None:
        return {}
    rule = {
        "Id": need.rule_id,
        "Status": "Enabled",
        "Prefix": need.prefix,
        "ExpirationInDays": need.days,
    }
    encryption = {
        "ServerSideEncryptionByDefault": need.encryption["ApplyServerSideEncryptionByDefault"],
        "BucketKeyEnabled": need.encryption["BucketKeyEnabled"],
    }
    bucket = {
        "Type": "AWS::S3::Bucket",
        **_RETAINED,
        "Properties": {
            "BucketName": need.name,
            "LifecycleConfiguration": {"Rules": [rule]},
            "BucketEncryption": {"ServerSideEncryptionConfiguration": [encryption]},
            "PublicAccessBlockConfiguration": PUBLIC_ACCESS_BLOCK,
        },
    }
    arn = {"Fn::GetAtt": ["PayloadBucket", "Arn"]}
    policy = {
        "Type": "AWS::S3::BucketPolicy",
        "Properties": {
            "Bucket": {"Ref": "PayloadBucket"},
            "PolicyDocument": bucket_tls_only_policy(arn, {"Fn::Sub": "${PayloadBucket.Arn}/*"}),
        },
    }
    return {"PayloadBucket": bucket, "PayloadBucketPolicy": policy}


def _cloudformation_topic(need: TopicNeed, cluster: str) -> dict[str, Any]:
    # MSK takes a properties file in base64 ("Describe a topic using the AWS CLI", MSK developer guide).
    lines = "\n".join(f"{name}={value}" for name, value in sorted(need.config.items()))
    return {
        "Type": "AWS::MSK::Topic",
        **_RETAINED,
        "Properties": {
            "ClusterArn": cluster,
            "TopicName": need.name,
            "PartitionCount": need.partitions,
            "ReplicationFactor": need.replication,
            "Configs": base64.b64encode(lines.encode()).decode(),
        },
    }


def terraform(settings: Settings, registry: Registry) -> dict[str, Any]:
    """Return a Terraform configuration, for a file that ends in .tf.json.

    It holds no secret: the Kafka provider reads KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_CA_CERT.
    """
    dead_letters, *queues = queue_needs(settings, registry)
    topics = topic_needs(settings, registry)
    queue_labels = labels([need.name for need in queues], "_")
    topic_labels = labels([need.name for need in topics], "_")
    arns = arns_of(settings)
    return {
        "terraform": {"required_providers": _PROVIDERS},
        "provider": {"aws": {"region": arns.region}, "kafka": _terraform_kafka(settings)},
        "resource": {
            "aws_sqs_queue": {
                "dead_letters": _terraform_queue(dead_letters, arns),
                **{f"tasks_{queue_labels[need.name]}": _terraform_queue(need, arns) for need in queues},
            },
            "aws_dynamodb_table": {"jobs": _terraform_table(table_need(settings))},
            **_terraform_bucket(bucket_need(settings)),
            "kafka_topic": {f"topic_{topic_labels[need.name]}": _terraform_topic(need) for need in topics},
        },
    }


def _terraform_kafka(settings: Settings) -> dict[str, Any]:
    configuration: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in settings.kafka_bootstrap_servers.split(",")],
        "tls_enabled": settings.kafka_security_protocol != "PLAINTEXT",
    }
    if settings.kafka_sasl_mechanism:
        configuration["sasl_mechanism"] = _MECHANISMS[settings.kafka_sasl_mechanism]
    if settings.kafka_sasl_mechanism == "AWS_MSK_IAM":
        configuration["sasl_aws_region"] = settings.aws_default_region
    if settings.kafka_oauth_token_url:
        configuration["sasl_token_url"] = settings.kafka_oauth_token_url
    if settings.kafka_oauth_scope:
        configuration["sasl_oauth_scopes"] = settings.kafka_oauth_scope.split()
    return configuration


def _terraform_queue(need: QueueNeed, arns: Arns) -> dict[str, Any]:
    attributes = {_ATTRIBUTES[name]: value for name, value in _values(need.attributes).items()}
    if need.max_receive_count:
        attributes["redrive_policy"] = (
            "${jsonencode({deadLetterTargetArn = aws_sqs_queue.dead_letters.arn, maxReceiveCount = "
            f"{need.max_receive_count}}})}}"
        )
    if need.tls_only:
        attributes["policy"] = with_tls_only(None, arns.queue(need.url))
    return {"name": need.name, "fifo_queue": True, **attributes, **_PROTECTED}


def _terraform_table(need: TableNeed) -> dict[str, Any]:
    definition = need.definition
    keys = {
        "hash_key": _key(definition["KeySchema"], "HASH"),
        "range_key": _key(definition["KeySchema"], "RANGE"),
    }
    encryption = {"server_side_encryption": {"enabled": True, "kms_key_arn": need.key}} if need.key else {}
    return {
        "name": need.name,
        "billing_mode": definition["BillingMode"],
        **keys,
        "attribute": [
            {"name": each["AttributeName"], "type": each["AttributeType"]}
            for each in definition["AttributeDefinitions"]
        ],
        "global_secondary_index": [_terraform_index(each) for each in definition["GlobalSecondaryIndexes"]],
        "ttl": {"attribute_name": need.expiry, "enabled": True},
        "point_in_time_recovery": {"enabled": True},
        **_terraform_warm(definition),
        **encryption,
        **_PROTECTED,
    }


def _terraform_bucket(need: BucketNeed | None) -> dict[str, Any]:
    if need is None:
        return {}
    bucket = "${aws_s3_bucket.payloads.id}"
    arn = "${aws_s3_bucket.payloads.arn}"
    by = need.encryption["ApplyServerSideEncryptionByDefault"]
    key = {"kms_master_key_id": need.key} if need.key else {}
    return {
        "aws_s3_bucket": {"payloads": {"bucket": need.name, **_PROTECTED}},
        "aws_s3_bucket_lifecycle_configuration": {
            "payloads": {
                "bucket": bucket,
                "rule": [
                    {
                        "id": need.rule_id,
                        "status": "Enabled",
                        "filter": {"prefix": need.prefix},
                        "expiration": {"days": need.days},
                    }
                ],
            }
        },
        "aws_s3_bucket_server_side_encryption_configuration": {
            "payloads": {
                "bucket": bucket,
                "rule": [
                    {
                        "apply_server_side_encryption_by_default": {
                            "sse_algorithm": by["SSEAlgorithm"],
                            **key,
                        },
                        "bucket_key_enabled": need.encryption["BucketKeyEnabled"],
                    }
                ],
            }
        },
        "aws_s3_bucket_public_access_block": {
            "payloads": {
                "bucket": bucket,
                "block_public_acls": True,
                "ignore_public_acls": True,
                "block_public_policy": True,
                "restrict_public_buckets": True,
            }
        },
        "aws_s3_bucket_policy": {
            "payloads": {"bucket": bucket, "policy": json.dumps(bucket_tls_only_policy(arn, f"{arn}/*"))}
        },
    }


def _terraform_index(index: Mapping[str, Any]) -> dict[str, Any]:
    names = index["Projection"].get("NonKeyAttributes")
    return {
        "name": index["IndexName"],
        "hash_key": _key(index["KeySchema"], "HASH"),
        "range_key": _key(index["KeySchema"], "RANGE"),
        "projection_type": index["Projection"]["ProjectionType"],
        **({"non_key_attributes": names} if names else {}),
        **_terraform_warm(index),
    }


def _terraform_warm(definition: Mapping[str, Any]) -> dict[str, Any]:
    warm = definition.get("WarmThroughput")
    return {"warm_throughput": {"write_units_per_second": warm["WriteUnitsPerSecond"]}} if warm else {}


def _key(schema: list[dict[str, str]], kind: str) -> str:
    return next(each["AttributeName"] for each in schema if each["KeyType"] == kind)


def _terraform_topic(need: TopicNeed) -> dict[str, Any]:
    return {
        "name": need.name,
        "partitions": need.partitions,
        "replication_factor": need.replication,
        "config": dict(need.config),
        **_PROTECTED,
    }


def _values(attributes: Mapping[str, str]) -> dict[str, Value]:
    """Return a queue's attributes with their types in a template."""
    return {name: _value(name, text) for name, text in attributes.items()}


def _value(name: str, text: str) -> Value:
    if name in _SWITCHES:
        return text == "true"
    return int(text) if name in _NUMBERS else text


def labels(names: Iterable[str], separator: str) -> dict[str, str]:
    """Return a label for each name: its words, joined, with a number if two would be the same."""
    found: dict[str, str] = {}
    for name in names:
        words = [word for word in re.split(r"[^A-Za-z0-9]+", name.removesuffix(".fifo")) if word]
        label = separator.join(words) if separator else "".join(word[0].upper() + word[1:] for word in words)
        taken = set(found.values())
        found[name] = next(
            each for n in range(1, len(taken) + 2) if (each := f"{label}{n if n > 1 else ''}") not in taken
        )
    return found
