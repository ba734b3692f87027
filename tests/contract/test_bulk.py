"""A bulk publish on the embedded and on the local services: few requests, and the same messages."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from celery import Celery

from pipeline.author.registry import Registry
from pipeline.celery import make_app
from pipeline.errors import MessageRefusedError, ServiceRefusedError
from pipeline.infra.provision import make_missing
from pipeline.services.environment import Services
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.transport import publish_many
from pipeline.transport.envelope import open_envelope
from tests.conftest import MakeSettings
from tests.processes import wait_until


@pytest.fixture
def app(services: Services, make_settings: MakeSettings) -> Iterator[Celery]:
    """An app that publishes to a queue of its own."""
    settings = make_settings(services)
    list(make_missing(settings, Registry(), kafka=False, sqs=True))
    made = make_app(settings)
    yield made
    made.close()


@pytest.fixture
def requests(app: Celery) -> Counter[str]:
    """The requests that SQS is sent, by action."""
    counted: Counter[str] = Counter()
    events = sqs_client(app.pipeline.settings).meta.events
    events.register("after-call.sqs", lambda model, **_: counted.update([model.name]))
    return counted


def sign(app: Celery, number: int, **options: Any) -> Any:
    return app.signature("note", args=(number,)).set(**options)


def receive(app: Celery, count: int) -> list[tuple[Mapping[str, Any], str]]:
    """So many messages, deleted: their headers and group, in order."""
    queue = SqsQueue(sqs_client(app.pipeline.settings), app.pipeline.settings.sqs_task_queue_url)
    found: list[tuple[Mapping[str, Any], str]] = []

    def enough() -> bool:
        new = queue.receive(wait_seconds=0, visibility_seconds=30)
        queue.delete([message.receipt_handle for message in new])
        found.extend((open_envelope(message.body).headers, message.group_id) for message in new)
        return len(found) >= count

    wait_until(enough, f"{count} messages")
    assert queue.depth().available == 0
    return found


def test_many_go_in_few_requests(app: Celery, requests: Counter[str]) -> None:
    """Ten in each; every one is there under the id that was returned."""
    published = publish_many(sign(app, number) for number in range(95))
    assert requests == {"SendMessageBatch": 10}
    assert [each.error for each in published] == [None] * 95
    assert {headers["id"] for headers, _ in receive(app, 95)} == {each.task_id for each in published}


def test_a_group_keeps_its_order(app: Celery, requests: Counter[str]) -> None:
    """One of it in a request, since SQS may fail one entry and take the next."""
    published = publish_many(sign(app, number, headers={"message_group": "a"}) for number in range(6))
    assert requests == {"SendMessageBatch": 6}
    received = receive(app, 6)
    assert [headers["id"] for headers, _ in received] == [each.task_id for each in published]
    sign(app, 6, headers={"message_group": "a"}).apply_async()
    assert {group for _, group in received + receive(app, 1)} == {"a"}


def test_large_ones_share_no_request_that_is_too_large(app: Celery) -> None:
    """1 MiB is the limit of a request as of a message; one over it is refused, the others are there."""
    large = [app.signature("note", args=("x" * 200_000,)) for _ in range(7)]
    *there, refused = publish_many([*large, app.signature("note", args=("x" * 1_100_000,))])
    assert [each.error for each in there] == [None] * 7
    assert isinstance(refused.error, MessageRefusedError)
    assert len(receive(app, 7)) == 7


def test_published_again_under_its_id_it_is_one_message(app: Celery) -> None:
    """By another bulk publish: the deduplication id is the same."""
    (first,) = publish_many([sign(app, 1)])
    publish_many([sign(app, 1, task_id=first.task_id)])
    assert [headers["id"] for headers, _ in receive(app, 1)] == [first.task_id]


def test_a_frozen_signature_that_is_applied_twice_is_two_messages(app: Celery) -> None:
    """With one task id, as Celery sends it."""
    signature = sign(app, 1)
    task_id = signature.freeze().id
    for _ in range(2):
        signature.apply_async()
    assert [headers["id"] for headers, _ in receive(app, 2)] == [task_id] * 2


def test_a_queue_that_is_not_there_is_named(app: Celery) -> None:
    """Messages for other queues arrive there."""
    lost, there = publish_many([sign(app, 1, queue="nowhere.fifo"), sign(app, 2)])
    assert isinstance(lost.error, ServiceRefusedError)
    assert "nowhere.fifo" in str(lost.error)
    assert there.error is None
    receive(app, 1)
