"""The only door to Kafka: events out with their acknowledgement, events in with manual commits, topics."""

from pipeline.kafka.admin import KafkaAdmin, Topic
from pipeline.kafka.consumer import EventConsumer, Partition
from pipeline.kafka.producer import EventProducer
from pipeline.kafka.records import Headers, Message, Record

__all__ = [
    "EventConsumer",
    "EventProducer",
    "Headers",
    "KafkaAdmin",
    "Message",
    "Partition",
    "Record",
    "Topic",
]
