"""A topic reader whose client goes deaf takes a new one, and says so until that one reads."""

import json
import threading
import time
from collections.abc import Callable
from typing import ClassVar

import pytest

from pipeline.control import topicreader
from pipeline.control.controlmessage import EVENTS, Payload, encode
from pipeline.control.reachability import Reachability
from pipeline.control.topicreader import Past, TopicReader
from pipeline.errors import ServiceUnavailableError
from pipeline.kafka import ReceivedRecord
from pipeline.settings import Settings
from pipeline.transport.envelope import PARSED
from tests.loglines import log_lines

SETTINGS = Settings(
    service_name="shop",
    kafka_bootstrap_servers="none",
    kafka_consumer_group="shop",
    sqs_task_queue_url="http://none/tasks.fifo",
    sqs_dlq_url="http://none/dlq.fifo",
)


class Reader:
    """In place of a LogReader: the first one goes deaf."""

    readers: ClassVar[list["Reader"]] = []
    may_open: ClassVar[threading.Event] = threading.Event()

    def __init__(self, settings: Settings, topic: str) -> None:
        self.closed = False
        self.is_deaf = not self.readers
        self.readers.append(self)

    def open(self, *, seconds: float, records: int) -> None:
        if not self.is_deaf and not self.may_open.is_set():
            raise ServiceUnavailableError("brokers are away")

    def poll(self, most: int, timeout: float) -> list[ReceivedRecord]:
        time.sleep(0.01)
        return []

    def has_caught_up(self) -> bool:
        return True

    def check(self) -> None:
        if self.is_deaf:
            raise ServiceUnavailableError("the client gets none of its records")

    def close(self) -> None:
        self.closed = True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_deaf_reader_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is closed, as are new ones that cannot open; until one can, an error names what is wrong."""
    monkeypatch.setattr(topicreader, "LogReader", Reader)
    monkeypatch.setattr(topicreader, "QUIET", 0.05)
    monkeypatch.setattr(topicreader, "RETRY_AFTER", 0.05)
    reader = TopicReader(SETTINGS, EVENTS, "events", Past(seconds=0, records=0), Reachability())
    reader.start()
    try:
        wait_until(lambda: len(Reader.readers) > 2)
        assert "brokers are away" in str(reader.error)
        assert not reader.wait_opened(0)
        Reader.may_open.set()
        assert reader.wait_opened(60)
        *replaced, last = Reader.readers
        assert all(each.closed for each in replaced)
        time.sleep(0.2)
        assert Reader.readers == [*replaced, last]
        assert not last.closed
    finally:
        reader.close()


class Records(Reader):
    """Has some records, once."""

    records: ClassVar[list[ReceivedRecord]] = []

    def __init__(self, settings: Settings, topic: str) -> None:
        self.closed = self.is_deaf = False

    def open(self, *, seconds: float, records: int) -> None:
        """Open at once."""

    def poll(self, most: int, timeout: float) -> list[ReceivedRecord]:
        time.sleep(0.01)
        taken = list(self.records)
        self.records.clear()
        return taken

    def is_past(self, message: ReceivedRecord) -> bool:
        return False


class Fragile:
    """Fails at the first event."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def put(self, queue: str, message: Payload) -> None:
        name = message[PARSED]["hostname"]
        if name == "first":
            raise ValueError(name)
        self.taken.append(name)


def test_a_message_that_cannot_be_handled_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading goes on behind it, and nothing is read again."""
    values = [
        encode(
            {
                "body": json.dumps({"type": "worker-online", "hostname": name, "timestamp": 1}),
                "headers": {},
                "properties": {"delivery_tag": "t", "delivery_info": {}},
                "content-type": "application/json",
            }
        )
        for name in ("first", "second", "third")
    ]
    Records.records = [
        ReceivedRecord(topic="e", partition=0, offset=n, timestamp_ms=1, key=b"k", value=value, headers=())
        for n, value in enumerate(values)
    ]
    monkeypatch.setattr(topicreader, "LogReader", Records)
    reader = TopicReader(SETTINGS, EVENTS, "e", Past(seconds=0, records=0), Reachability())
    fragile = Fragile()
    reader.subscribe("fragile", "#", fragile)
    with log_lines(topicreader) as lines:
        reader.start()
        try:
            wait_until(lambda: len(fragile.taken) == 2)
        finally:
            reader.close()
    assert fragile.taken == ["second", "third"]
    assert [line["event"] for line in lines] == ["control.message_failed"]
