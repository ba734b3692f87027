"""The Kafka ACLs of docs/guides/flower.md: the control plane works with exactly these rights."""

from collections.abc import Iterator

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from kombu.exceptions import OperationalError

from pipeline.control.controlmessage import COMMANDS, EVENTS, REPLIES
from pipeline.control.controlplane import ControlPlane
from pipeline.control.transport import MessageBuffer
from pipeline.kafka import KafkaAdmin
from pipeline.kafka.configuration import client_configuration
from pipeline.settings import Settings, load_settings
from tests.processes import PATIENCE, wait_until
from tests.securekafka import PASSWORD, USER, SecureKafka, secure_kafka

READ, WRITE = AclOperation.READ, AclOperation.WRITE

#: The broker's users, in the parts of the table's rows.
WORKER, FLOWER, INSPECT = "worker", "operator", "bridge"
TABLE = {
    WORKER: {EVENTS: WRITE, COMMANDS: READ, REPLIES: WRITE},
    FLOWER: {EVENTS: READ, COMMANDS: WRITE, REPLIES: READ},
    INSPECT: {COMMANDS: WRITE, REPLIES: READ},
}


@pytest.fixture(scope="module")
def broker(local_programs: None) -> Iterator[SecureKafka]:
    """A broker on which each has what the table grants."""
    with secure_kafka() as broker:
        root = settings_of(broker, USER)
        topics = dict(zip((EVENTS, COMMANDS, REPLIES), root.control_topics, strict=True))
        for topic in topics.values():
            KafkaAdmin(root).create(topic, partitions=1, replication=1, config={})
        grants = [
            AclBinding(
                ResourceType.TOPIC,
                topics[exchange],
                ResourcePatternType.LITERAL,
                f"User:{user}",
                "*",
                operation,
                AclPermissionType.ALLOW,
            )
            for user, row in TABLE.items()
            for exchange, operation in row.items()
        ]
        admin = AdminClient(client_configuration(root, "acls"))
        for done in admin.create_acls(grants).values():
            done.result(30)
        yield broker


def settings_of(broker: SecureKafka, user: str) -> Settings:
    return load_settings(
        {
            "SERVICE_NAME": "orders",
            "KAFKA_BOOTSTRAP_SERVERS": broker.sasl,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": user,
            "KAFKA_SASL_PASSWORD": PASSWORD,
            "SSL_CA_LOCATION": str(broker.authority),
            "KAFKA_CONSUMER_GROUP": "orders",
            "SQS_TASK_QUEUE_URL": "http://127.0.0.1:1/0/orders.fifo",
            "SQS_DLQ_URL": "http://127.0.0.1:1/0/orders-dlq.fifo",
        }
    )


class Party:
    """One of the table's rows at work."""

    def __init__(self, broker: SecureKafka, user: str) -> None:
        self.plane = ControlPlane(settings_of(broker, user))
        self.buffer = MessageBuffer(lambda: None)

    def hears(self, exchange: str) -> None:
        """Hear what is said from now on. A worker, which waits for no broker, is waited for here."""
        self.buffer.open(exchange)
        self.plane.subscribe(exchange, exchange, "#" if exchange == EVENTS else "key", self.buffer)
        assert self.plane._readers[exchange].wait_opened(PATIENCE)

    def says(self, exchange: str, body: str) -> None:
        self.plane.publish(exchange, "key", message(body))

    def heard(self) -> str:
        """The body of the next message."""
        found: list[str] = []

        def take() -> bool:
            if (entry := self.buffer.take()) is not None:
                found.append(entry[1]["body"])
            return bool(found)

        wait_until(take, "a message")
        return found[0]


def message(body: str) -> dict[str, object]:
    return {
        "body": body,
        "content-type": "application/json",
        "headers": {},
        "properties": {"delivery_tag": "t", "delivery_info": {}},
    }


@pytest.fixture
def parties(broker: SecureKafka) -> Iterator[dict[str, Party]]:
    parties = {user: Party(broker, user) for user in TABLE}
    yield parties
    for party in parties.values():
        party.plane.close()


COMMAND, REPLY = '{"method": "ping"}', '{"w": {"ok": "pong"}}'
EVENT = '{"type": "worker-online", "hostname": "w", "timestamp": 1}'


def test_what_the_table_grants_is_enough(parties: dict[str, Party]) -> None:
    """Worker, Flower and inspect: commands, replies and events go where they should."""
    worker, flower = parties[WORKER], parties[FLOWER]
    worker.hears(COMMANDS)
    for user in (FLOWER, INSPECT):
        parties[user].hears(REPLIES)
        parties[user].says(COMMANDS, COMMAND)
        assert worker.heard() == COMMAND
        worker.says(REPLIES, REPLY)
        assert parties[user].heard() == REPLY
    assert flower.heard() == REPLY  # the one that went to inspect
    flower.hears(EVENTS)
    wait_until(lambda: worker.says(EVENTS, EVENT) or flower.buffer.take(), "an event")  # type: ignore[func-returns-value]


def test_who_has_no_grant_commands_nobody(parties: dict[str, Party]) -> None:
    """A worker's rights send no command; the refusal names what is missing."""
    with pytest.raises(OperationalError, match="TOPIC_AUTHORIZATION_FAILED"):
        parties[WORKER].says(COMMANDS, COMMAND)
    parties[INSPECT].says(EVENTS, EVENT)
    wait_until(lambda: parties[INSPECT].plane.reachability.dropped_events, "the event is refused")
