"""A Terraform configuration (JSON syntax) of a service's queues, table and topics."""

from collections.abc import Mapping
from typing import Any

from config.settings import Settings
from pipeline.arns import arns_of
from pipeline.export.parts import labels, values
from pipeline.jobs.schema import TTL, table_definition
from pipeline.registry import Registry
from pipeline.topology import QueueNeed, TopicNeed, queue_needs, topic_needs

#: The providers: HashiCorp's own, and the one for any Kafka that speaks its admin protocol. AWS's takes a
#: max_message_size of 1 MiB since 6.8.0 (its changelog, #43710).
_PROVIDERS = {
    "aws": {"source": "hashicorp/aws", "version": ">= 6.8.0"},
    "kafka": {"source": "Mongey/kafka", "version": ">= 0.8"},
}

#: Terraform's names for a queue's attributes.
_ATTRIBUTES = {
    "ContentBasedDeduplication": "content_based_deduplication",
    "DeduplicationScope": "deduplication_scope",
    "FifoThroughputLimit": "fifo_throughput_limit",
    "MaximumMessageSize": "max_message_size",
    "MessageRetentionPeriod": "message_retention_seconds",
    "ReceiveMessageWaitTimeSeconds": "receive_wait_time_seconds",
    "VisibilityTimeout": "visibility_timeout_seconds",
}

#: The Kafka provider's names for ways to log in.
_MECHANISMS = {
    "SCRAM-SHA-256": "scram-sha256",
    "SCRAM-SHA-512": "scram-sha512",
    "AWS_MSK_IAM": "aws-iam",
}

#: What "terraform destroy" refuses: it holds work that is not done.
_KEPT = {"lifecycle": {"prevent_destroy": True}}


def terraform(settings: Settings, registry: Registry) -> dict[str, Any]:
    """The configuration, for a file that ends in .tf.json.

    It holds no secret: the Kafka provider reads KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_CA_CERT.
    """
    dead_letters, *queues = queue_needs(settings, registry)
    topics = topic_needs(settings, registry)
    queue_labels = labels([need.name for need in queues], "_")
    topic_labels = labels([need.name for need in topics], "_")
    return {
        "terraform": {"required_providers": _PROVIDERS},
        "provider": {"aws": {"region": arns_of(settings).region}, "kafka": _kafka(settings)},
        "resource": {
            "aws_sqs_queue": {
                "dead_letters": _queue(dead_letters),
                **{f"tasks_{queue_labels[need.name]}": _queue(need) for need in queues},
            },
            "aws_dynamodb_table": {"jobs": _table(settings.dynamodb_table)},
            "kafka_topic": {f"topic_{topic_labels[need.name]}": _topic(need) for need in topics},
        },
    }


def _kafka(settings: Settings) -> dict[str, Any]:
    configuration: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in settings.kafka_bootstrap_servers.split(",")],
        "tls_enabled": settings.kafka_security_protocol != "PLAINTEXT",
    }
    if settings.kafka_sasl_mechanism:
        configuration["sasl_mechanism"] = _MECHANISMS[settings.kafka_sasl_mechanism]
    if settings.kafka_sasl_mechanism == "AWS_MSK_IAM":
        configuration["sasl_aws_region"] = settings.aws_default_region
    return configuration


def _queue(need: QueueNeed) -> dict[str, Any]:
    attributes = {_ATTRIBUTES[name]: value for name, value in values(need.attributes).items()}
    if need.max_receive_count:
        attributes["redrive_policy"] = (
            "${jsonencode({deadLetterTargetArn = aws_sqs_queue.dead_letters.arn, maxReceiveCount = "
            f"{need.max_receive_count}}})}}"
        )
    return {"name": need.name, "fifo_queue": True, **attributes, **_KEPT}


def _table(name: str) -> dict[str, Any]:
    definition = table_definition(name)
    keys = {
        "hash_key": _key(definition["KeySchema"], "HASH"),
        "range_key": _key(definition["KeySchema"], "RANGE"),
    }
    return {
        "name": name,
        "billing_mode": definition["BillingMode"],
        **keys,
        "attribute": [
            {"name": each["AttributeName"], "type": each["AttributeType"]}
            for each in definition["AttributeDefinitions"]
        ],
        "global_secondary_index": [_index(each) for each in definition["GlobalSecondaryIndexes"]],
        "ttl": {"attribute_name": TTL, "enabled": True},
        **_KEPT,
    }


def _index(index: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": index["IndexName"],
        "hash_key": _key(index["KeySchema"], "HASH"),
        "range_key": _key(index["KeySchema"], "RANGE"),
        "projection_type": index["Projection"]["ProjectionType"],
        "non_key_attributes": index["Projection"]["NonKeyAttributes"],
    }


def _key(schema: list[dict[str, str]], kind: str) -> str:
    return next(each["AttributeName"] for each in schema if each["KeyType"] == kind)


def _topic(need: TopicNeed) -> dict[str, Any]:
    return {
        "name": need.name,
        "partitions": need.partitions,
        "replication_factor": need.replication,
        "config": dict(need.config),
        **_KEPT,
    }
