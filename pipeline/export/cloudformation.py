"""A CloudFormation template of a service's queues, table and, on MSK, topics."""

import base64
from typing import Any

from config.settings import Settings
from pipeline.export.parts import labels, values
from pipeline.jobs.schema import TTL, table_definition
from pipeline.registry import Registry
from pipeline.topology import QueueNeed, TopicNeed, queue_needs, topic_needs

#: What is kept when the stack is deleted, or a change would replace it: it holds work that is not done.
_KEPT = {"DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain"}


def cloudformation(settings: Settings, registry: Registry) -> dict[str, Any]:
    """The template, with topics when MSK_CLUSTER_ARN names their cluster: no other Kafka has a resource."""
    dead_letters, *queues = queue_needs(settings, registry)
    names = labels([need.name for need in queues], "")
    resources = {
        "DeadLetterQueue": _queue(dead_letters),
        **{f"Queue{names[need.name]}": _queue(need) for need in queues},
        "JobsTable": _table(settings.dynamodb_table),
    }
    description = f"Queues and table of {settings.service_name}"
    if settings.msk_cluster_arn:
        topics = topic_needs(settings, registry)
        labelled = labels([need.name for need in topics], "")
        resources |= {
            f"Topic{labelled[need.name]}": _topic(need, settings.msk_cluster_arn) for need in topics
        }
        description = f"Queues, table and topics of {settings.service_name}"
    return {"AWSTemplateFormatVersion": "2010-09-09", "Description": description, "Resources": resources}


def _queue(need: QueueNeed) -> dict[str, Any]:
    properties: dict[str, Any] = {"QueueName": need.name, "FifoQueue": True, **values(need.attributes)}
    if need.max_receive_count:
        properties["RedrivePolicy"] = {
            "deadLetterTargetArn": {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]},
            "maxReceiveCount": need.max_receive_count,
        }
    return {"Type": "AWS::SQS::Queue", **_KEPT, "Properties": properties}


def _table(name: str) -> dict[str, Any]:
    expiry = {"TimeToLiveSpecification": {"AttributeName": TTL, "Enabled": True}}
    return {"Type": "AWS::DynamoDB::Table", **_KEPT, "Properties": {**table_definition(name), **expiry}}


def _topic(need: TopicNeed, cluster: str) -> dict[str, Any]:
    # MSK takes a properties file in base64 ("Describe a topic using the AWS CLI", MSK developer guide).
    lines = "\n".join(f"{name}={value}" for name, value in sorted(need.config.items()))
    return {
        "Type": "AWS::MSK::Topic",
        **_KEPT,
        "Properties": {
            "ClusterArn": cluster,
            "TopicName": need.name,
            "PartitionCount": need.partitions,
            "ReplicationFactor": need.replication,
            "Configs": base64.b64encode(lines.encode()).decode(),
        },
    }
