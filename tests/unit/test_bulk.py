"""A bulk publish, for every answer of SQS: which messages arrived, which did not, and their errors."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from celery import Celery, chain, group
from celery._state import _task_stack
from celery.exceptions import Reject
from celery.states import REJECTED
from kombu.exceptions import EncodeError, OperationalError

from pipeline.celery import make_app
from pipeline.errors import MessageRefusedError, ServiceError, ServiceUnavailableError
from pipeline.sqs import OutgoingMessage
from pipeline.transport import bulk, kombutransport, publish_many
from pipeline.transport.envelope import open_envelope
from pipeline.worker.child import trace
from pipeline.worker.child.outcome import Failed
from tests import builders

SETTINGS = builders.settings(service_name="s")


class FakeQueue:
    """Fails the messages whose body holds a told text, so often."""

    def __init__(self) -> None:
        self.taken: list[OutgoingMessage] = []
        self.failing: dict[str, tuple[ServiceError, int]] = {}

    def send(
        self, messages: Sequence[OutgoingMessage], *, one_per_group: bool = False
    ) -> list[ServiceError | None]:
        assert one_per_group or len(messages) == 1
        answers: list[ServiceError | None] = []
        broken: set[str] = set()
        for message in messages:
            error = self._failure(message)
            if message.group_id in broken:
                error = ServiceUnavailableError("one before it failed")
            if error:
                broken.add(message.group_id)
            else:
                self.taken.append(message)
            answers.append(error)
        return answers

    def _failure(self, message: OutgoingMessage) -> ServiceError | None:
        for text, (error, times) in self.failing.items():
            if text in message.body and times:
                self.failing[text] = (error, times - 1)
                return error
        return None


@pytest.fixture
def app() -> Celery:
    """An app that knows no tasks."""
    return make_app(SETTINGS)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    """In place of every queue."""
    queue = FakeQueue()
    monkeypatch.setattr(kombutransport.Transport, "queue", staticmethod(lambda _: queue))
    monkeypatch.setattr(bulk, "PAUSES", (0, 0, 0))
    return queue


def sign(app: Celery, mark: str, **options: Any) -> Any:
    return app.signature("note", args=(f"<{mark}>",)).set(**options)


def marks(queue: FakeQueue) -> list[str]:
    return [message.body.split("<")[1].split(">")[0] for message in queue.taken]


def test_nothing_is_published_of_nothing() -> None:
    """No app is asked for."""
    assert publish_many([]) == []


def test_what_was_not_answered_is_sent_again_in_its_place(app: Celery, queue: FakeQueue) -> None:
    """Its group waits for it, others do not."""
    queue.failing["<a1>"] = (ServiceUnavailableError("lost"), 3)
    published = publish_many(
        [sign(app, "a1", headers={"message_group": "a"}), sign(app, "b")]
        + [sign(app, mark, headers={"message_group": "a"}) for mark in ("a2", "a3")]
    )
    assert [each.error for each in published] == [None] * 4
    assert marks(queue) == ["b", "a1", "a2", "a3"]


def test_what_is_never_answered_says_so(app: Celery, queue: FakeQueue) -> None:
    """After the tries that a single publish has; it may be published again under its id."""
    queue.failing["<a>"] = (ServiceUnavailableError("away"), 4)
    lost, there = publish_many([sign(app, "a"), sign(app, "b")])
    assert str(lost.error) == "away"
    assert there.error is None
    (again,) = publish_many([sign(app, "a", task_id=lost.task_id)])
    assert (again.task_id, again.error) == (lost.task_id, None)


def test_nothing_of_a_group_passes_one_that_is_refused(app: Celery, queue: FakeQueue) -> None:
    """As when they are published one by one and the first error ends that."""
    queue.failing["<a1>"] = (MessageRefusedError("too large"), 1)
    published = publish_many(
        [sign(app, mark, headers={"message_group": mark[0]}) for mark in ("a1", "b1", "a2", "b2")]
    )
    assert [bool(each.error) for each in published] == [True, False, True, False]
    assert marks(queue) == ["b1", "b2"]


def test_nothing_is_sent_when_one_cannot_be_made(app: Celery, queue: FakeQueue) -> None:
    """And the next publish is a publish."""
    with pytest.raises(EncodeError, match="JSON serializable"):
        publish_many([sign(app, "a"), app.signature("note", args=(object(),))])
    assert queue.taken == []
    sign(app, "b").apply_async()
    assert marks(queue) == ["b"]


def test_chains_and_groups_are_published_as_celery_would(app: Celery, queue: FakeQueue) -> None:
    """The first of a chain, all of a group; each has the id of its result, and its own errors."""
    queue.failing["<g2>"] = (MessageRefusedError("too large"), 1)
    chained, grouped, alone = publish_many(
        [
            chain(sign(app, "c1"), sign(app, "c2"), app=app),
            group([sign(app, "g1"), sign(app, "g2")], app=app),
            sign(app, "z", task_id="own"),
        ]
    )
    assert marks(queue) == ["c1", "g1", "z"]
    assert chained.task_id in queue.taken[0].body
    assert (chained.error, alone.error, alone.task_id) == (None, None, "own")
    assert isinstance(grouped.error, MessageRefusedError)


def test_what_goes_to_no_queue_is_refused(app: Celery, queue: FakeQueue) -> None:
    """kombu drops what is published to an exchange that no queue is bound to, and says that it is sent."""
    elsewhere = sign(app, "a", exchange="media", routing_key="media.video", retry=False)
    with pytest.raises(OperationalError, match="no queue is bound"):
        elsewhere.apply_async()
    with pytest.raises(OperationalError, match="no queue is bound"):
        publish_many([elsewhere])
    assert queue.taken == []


def test_the_options_of_kombus_sqs_transport_count(app: Celery, queue: FakeQueue) -> None:
    """Code that names a group and a deduplication id in its way needs no change."""
    sign(app, "a", MessageGroupId="customer-7", MessageDeduplicationId="d-1").apply_async()
    publish_many([sign(app, "a", MessageGroupId=7)])
    first, second = queue.taken
    assert (first.group_id, first.deduplication_id) == ("customer-7", "d-1")
    assert second.group_id == "7"
    assert open_envelope(first.body).headers["message_group"] == "customer-7"


@pytest.mark.parametrize(
    ("options", "group"),
    [
        ({}, "customer-7"),
        ({"countdown": 60}, None),
        ({"countdown": 60, "task_id": "running"}, "customer-7"),
        ({"countdown": 60, "headers": {"message_group": "own"}}, "own"),
    ],
    ids=["now", "for later", "its own retry", "as told"],
)
def test_a_running_task_hands_its_group_on_unless_it_would_stand_still(
    app: Celery, queue: FakeQueue, options: dict[str, Any], group: str | None
) -> None:
    """A parked task holds back its group; only tasks that must keep their place are parked."""

    @app.task(name="running", bind=True, shared=False)  # type: ignore[untyped-decorator]
    def running(task: Any) -> None:
        sign(app, "next", **options).apply_async()

    running.push_request(id="running", message_group="customer-7", called_directly=False)
    _task_stack.push(running)
    try:
        running.run()
    finally:
        _task_stack.pop()
        running.pop_request()
    (sent,) = queue.taken
    assert json.loads(sent.body)["headers"].get("message_group") == group
    assert (sent.group_id == group) == (group is not None)


def test_what_sqs_would_drop_before_it_is_due_is_refused(app: Celery, queue: FakeQueue) -> None:
    """Published alone or with others: a queue keeps a message for 14 days, and nobody hears of its end."""
    sign(app, "a", countdown=12 * 86_400).apply_async()
    publish_many([sign(app, "b", countdown=12 * 86_400)])
    late = sign(app, "c", countdown=14 * 86_400)
    with pytest.raises(OperationalError, match=r"due in 14\.0 days"):
        late.apply_async()
    with pytest.raises(OperationalError, match=r"due in 14\.0 days"):
        publish_many([sign(app, "d"), late])
    assert marks(queue) == ["a", "b"]


@pytest.mark.parametrize(
    ("answer", "permanent"), [(ServiceUnavailableError("away"), False), (MessageRefusedError("late"), True)]
)
def test_a_retry_that_is_not_published_is_tried_again_unless_it_never_can_be(
    app: Celery, queue: FakeQueue, answer: ServiceError, permanent: bool
) -> None:
    """``self.retry`` publishes; what kept it from that stands behind kombu's own error."""
    queue.failing["<a>"] = (answer, 9)
    with pytest.raises(OperationalError) as raised:
        sign(app, "a").apply_async()
    outcome = trace._unsuccessful(REJECTED, Reject(raised.value, requeue=False), 0.0)
    assert isinstance(outcome, Failed)
    assert outcome.permanent is permanent
