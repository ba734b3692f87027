"""The only door to Kafka: events out with their acknowledgement, events in with manual commits, topics."""

from pipeline.kafka.admin import Cluster, Group, KafkaAdmin, Member, PartitionState, Topic
from pipeline.kafka.consumer import EventConsumer, Partition, consumer_configuration
from pipeline.kafka.log import LogReader
from pipeline.kafka.peek import newest_messages
from pipeline.kafka.producer import EventProducer, LossyProducer, producer_configuration
from pipeline.kafka.records import Headers, Message, Record
from pipeline.kafka.scan import scan

__all__ = [
    "Cluster",
    "EventConsumer",
    "EventProducer",
    "Group",
    "Headers",
    "KafkaAdmin",
    "LogReader",
    "LossyProducer",
    "Member",
    "Message",
    "Partition",
    "PartitionState",
    "Record",
    "Topic",
    "consumer_configuration",
    "newest_messages",
    "producer_configuration",
    "scan",
]
