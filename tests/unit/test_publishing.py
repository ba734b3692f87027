"""A publish carries what a worker can run, and refuses all else with the reason and the change needed."""

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from pipeline.celery import make_app
from pipeline.errors import MessageRefusedError
from pipeline.sqs import MAX_MESSAGE_BYTES, OutgoingMessage
from pipeline.transport import kombutransport
from pipeline.transport.envelope import open_envelope
from tests.builders import settings


class Queue:
    """Takes every message, in place of SQS."""

    def __init__(self) -> None:
        self.taken: list[OutgoingMessage] = []

    def send(self, messages: list[OutgoingMessage]) -> list[None]:
        self.taken += messages
        return [None] * len(messages)


@pytest.fixture
def app() -> Celery:
    return make_app(settings())


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue()
    monkeypatch.setattr(kombutransport.Transport, "queue", staticmethod(lambda _: queue))
    return queue


def publish(app: Celery, *args: Any, **options: Any) -> Any:
    return app.send_task("note", args, retry=False, **options)


def test_shown_arguments_tell_no_secret(app: Celery, queue: Queue) -> None:
    """Celery's events and the message's headers show no password; the body holds it for the task."""
    app.send_task("note", ("ada", {"apiKey": "hunter2"}), {"password": "hunter2", "n": 1}, retry=False)
    (message,) = queue.taken
    sent = json.loads(message.body)
    assert "ada" in sent["headers"]["argsrepr"]
    assert "'n': 1" in sent["headers"]["kwargsrepr"]
    assert "hunter2" not in json.dumps(sent["headers"])
    assert sent["body"].count("hunter2") == 2


@pytest.mark.parametrize("group", [7, uuid.UUID(int=1), "customer-7"])
def test_a_group_may_be_text_a_number_or_a_uuid(app: Celery, queue: Queue, group: Any) -> None:
    """The same text, whichever of them a caller has: its tasks are one group."""
    publish(app, 1, headers={"message_group": group})
    (message,) = queue.taken
    assert message.group_id == str(group)
    assert open_envelope(message.body).headers["message_group"] == str(group)


def test_a_task_id_may_be_a_uuid(app: Celery, queue: Queue) -> None:
    """It is sent as text."""
    publish(app, 1, task_id=uuid.UUID(int=2))
    (message,) = queue.taken
    assert open_envelope(message.body).task_id == message.group_id == str(uuid.UUID(int=2))


@pytest.mark.parametrize(
    ("argument", "options", "why"),
    [
        (1, {"compression": "gzip"}, "publish without compression"),
        (1, {"serializer": "pickle"}, 'serializer="json"'),
        (1, {"serializer": "yaml"}, 'serializer="json"'),
        (1, {"task_id": "x" * 300}, "its id has 300 characters, and an id has at most 255"),
        (1, {"headers": {"tenant": uuid.UUID(int=3)}}, r"its header tenant is not JSON .*str\(\.\.\.\)"),
        (1, {"headers": {"traceparent": 5}}, "headers.traceparent"),
        (1, {"headers": {"message_group": ["a"]}}, "headers.message_group"),
        ("half \ud83d", {}, "half a surrogate pair"),
        (1, {"headers": {"mine": "half \ud83d"}}, "half a surrogate pair"),
        (1, {"MessageGroupId": ["a"]}, "headers.message_group"),
        (1, {"MessageDeduplicationId": "a b"}, "its MessageDeduplicationId is 'a b'"),
        (1, {"MessageDeduplicationId": ["a"]}, "its MessageDeduplicationId is"),
    ],
)
def test_what_no_worker_could_run_is_refused_by_the_publish(
    app: Celery, queue: Queue, argument: Any, options: dict[str, Any], why: str
) -> None:
    """With the option that is wrong and what to write instead; not as a dead letter later."""
    with pytest.raises(OperationalError, match=why) as refused:
        publish(app, argument, **options)
    assert isinstance(refused.value.__cause__, MessageRefusedError)
    assert not queue.taken


@pytest.mark.parametrize("text", ["漢" * 160_000, "é" * 200_000])
def test_text_of_any_script_takes_the_bytes_of_its_utf_8(app: Celery, queue: Queue, text: str) -> None:
    """Not those of its escapes: 480 kB of CJK fit into a message of 1 MiB."""
    publish(app, text)
    (message,) = queue.taken
    assert message.size < len(text.encode()) + 5_000 < MAX_MESSAGE_BYTES
    assert open_envelope(message.body).args == [text]


@pytest.mark.parametrize(
    "argument",
    ["\uffff \ufffe 漢", 'a "quoted" \\u6f22', "🦊", {"漢": ["\x00", "\x7f"]}, 10**40, 0.1, None, "\\"],
)
def test_arguments_arrive_as_they_were_sent(app: Celery, queue: Queue, argument: Any) -> None:
    """Whatever is written without escapes is read as the same value; and SQS takes each character of it."""
    publish(app, argument, "漢")
    (message,) = queue.taken
    assert open_envelope(message.body).args == [argument, "漢"]
    assert not {"\ufffe", "\uffff"} & set(message.body)
    assert json.loads(json.loads(message.body)["body"])[0][0] == argument


def test_an_app_of_protocol_1_publishes_in_protocol_2(app: Celery, queue: Queue) -> None:
    """With every option, also those that protocol 1 has no field for: nothing is lost."""
    options = {
        "task_id": "t-1",
        "root_id": "r-1",
        "parent_id": "p-1",
        "group_id": "g-1",
        "group_index": 3,
        "chord": {"task": "sum", "options": {"task_id": "b-1"}, "chord_size": 4},
        "chain": [{"task": "next", "options": {"task_id": "n-1"}}],
        "link": [{"task": "linked", "options": {"task_id": "l-1"}}],
        "link_error": [{"task": "failed", "options": {"task_id": "e-1"}}],
        "eta": datetime(2026, 1, 1, tzinfo=UTC),
        "expires": datetime(2099, 1, 1, tzinfo=UTC),
        "time_limit": 9,
        "soft_time_limit": 8,
        "retries": 2,
        "replaced_task_nesting": 1,
        "shadow": "shown",
        "ignore_result": True,
        "stamped_headers": ["mine"],
        "mine": "x",
        "headers": {"message_group": "customer-7"},
    }
    publish(app, 1, **options)
    app.conf.task_protocol = 1
    publish(app, 1, **options)
    two, one = queue.taken
    sent, expected = open_envelope(one.body), open_envelope(two.body)
    assert sent.headers == expected.headers
    assert one.group_id == two.group_id
    assert sent.body == expected.body
    assert sent.headers["group_index"] == 3
    assert sent.embed["chain"][0]["task"] == "next"


def test_protocol_1_is_refused_of_an_app_without_install(app: Celery, queue: Queue) -> None:
    """In a process that has another app with it: both have one ``fifo://``."""
    other = Celery("other", broker="fifo://", set_as_current=False)
    other.conf.update(task_protocol=1, task_default_queue=app.conf.task_default_queue)
    with pytest.raises(OperationalError, match=r"pipeline\.install\(app\).*task_protocol"):
        publish(other, 1)
    assert not queue.taken
