"""Both sets of services come up, answer, keep what they promise to keep, and leave no process behind."""

import uuid

import boto3
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pipeline.services.environment import Services
from tests.conftest import MakeSettings


def test_event_is_read_back(services: Services, make_settings: MakeSettings) -> None:
    """Kafka of either set gives back what was produced."""
    settings = make_settings(services)
    bootstrap: dict[str, str | int | float | bool] = {"bootstrap.servers": settings.kafka_bootstrap_servers}
    topic = settings.topic("document-received")
    if services.name == "local":
        admin = AdminClient(bootstrap)
        admin.create_topics([NewTopic(topic, 4, 1)])[topic].result(10)
    producer = Producer(bootstrap)
    producer.produce(topic, b"value", b"key")
    assert producer.flush(10) == 0
    consumer = Consumer(
        bootstrap
        | {
            "group.id": settings.kafka_consumer_group,
            "group.protocol": settings.kafka_group_protocol,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    try:
        message = consumer.poll(15)
        assert message is not None
        assert (message.error(), message.value(), message.key()) == (None, b"value", b"key")
    finally:
        consumer.close()


def test_message_is_received(services: Services, make_settings: MakeSettings) -> None:
    """SQS of either set gives a FIFO queue at the URL the settings name."""
    settings = make_settings(services)
    client = boto3.client("sqs")
    made = client.create_queue(QueueName=settings.task_queue, Attributes={"FifoQueue": "true"})
    assert made["QueueUrl"] == settings.sqs_task_queue_url
    client.send_message(
        QueueUrl=settings.sqs_task_queue_url,
        MessageBody="x",
        MessageGroupId="g",
        MessageDeduplicationId=uuid.uuid4().hex,
    )
    received = client.receive_message(QueueUrl=settings.sqs_task_queue_url, WaitTimeSeconds=5)
    assert [message["Body"] for message in received["Messages"]] == ["x"]


def test_item_is_read_back(services: Services, make_settings: MakeSettings) -> None:
    """DynamoDB of either set gives back what was written."""
    settings = make_settings(services)
    client = boto3.client("dynamodb")
    client.create_table(
        TableName=settings.dynamodb_table,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    item = {"pk": {"S": "a"}}
    client.put_item(TableName=settings.dynamodb_table, Item=item)
    found = client.get_item(TableName=settings.dynamodb_table, Key=item, ConsistentRead=True)
    assert found["Item"] == item
