"""The only door to Kafka: records out with their acknowledgement, records in with manual commits, topics."""

from pipeline.kafka.admin import Cluster, KafkaAdmin, PartitionState, Topic
from pipeline.kafka.consumer import EventConsumer, consumer_configuration
from pipeline.kafka.groups import Group, Member, describe_groups, list_groups
from pipeline.kafka.log import LogReader
from pipeline.kafka.offsets import GroupOffsets
from pipeline.kafka.positions import Partition, Restart
from pipeline.kafka.producer import (
    EMIT_TIMEOUT,
    EventProducer,
    LossyProducer,
    OrderedProducer,
    producer_configuration,
)
from pipeline.kafka.records import Headers, OutgoingRecord, ReceivedRecord
from pipeline.kafka.scan import newest_records, scan

__all__ = [
    "EMIT_TIMEOUT",
    "Cluster",
    "EventConsumer",
    "EventProducer",
    "Group",
    "GroupOffsets",
    "Headers",
    "KafkaAdmin",
    "LogReader",
    "LossyProducer",
    "Member",
    "OrderedProducer",
    "OutgoingRecord",
    "Partition",
    "PartitionState",
    "ReceivedRecord",
    "Restart",
    "Topic",
    "consumer_configuration",
    "describe_groups",
    "list_groups",
    "newest_records",
    "producer_configuration",
    "scan",
]
