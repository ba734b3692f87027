"""Errbacks of a task that becomes a dead letter, for every answer of SQS to the task that calls them."""

from typing import Any

import pytest
from celery import Celery

from pipeline.celery import make_app
from pipeline.errors import MessageRefusedError, ServiceError, ServiceUnavailableError
from pipeline.transport import bulk, kombutransport
from pipeline.worker import errbacks
from pipeline.worker.child.outcome import Failed
from pipeline.worker.errbacks import publish_errbacks
from pipeline.worker.settle.work import Work
from tests.builders import lease, settings
from tests.loglines import log_lines


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Celery:
    """The current app of this process, that publishes at once or not at all."""
    made = make_app(settings())
    monkeypatch.setattr(errbacks, "current_app", made)
    monkeypatch.setattr(bulk, "PAUSES", ())
    return made


class Queue:
    """In place of every queue."""

    def __init__(self, error: ServiceError | None = None) -> None:
        self.sent: list[Any] = []
        self.error = error

    def send(self, messages: list[Any], *, one_per_group: bool = False) -> list[ServiceError | None]:
        self.sent += messages
        return [self.error]


def given_up(embed: Any) -> Work:
    held = lease(headers={"id": "t"}, body=[[1], {}, embed], queue="q.fifo")
    return Work(lease=held, outcome=Failed(error="builtins.ValueError", message="no"))


ERRBACK = {"errbacks": [{"task": "tell", "args": [], "kwargs": {}, "options": {}}]}


@pytest.mark.parametrize("embed", [None, {}, {"errbacks": None}, {"errbacks": []}])
def test_a_task_without_errbacks_publishes_nothing(embed: Any) -> None:
    """Most have none."""
    publish_errbacks(given_up(embed))


def test_published_again_it_is_the_same_task(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the dead letter and the delete does not call them twice."""
    queue = Queue()
    monkeypatch.setattr(kombutransport.Transport, "queue", staticmethod(lambda _: queue))
    for _ in range(2):
        publish_errbacks(given_up(ERRBACK))
    assert len({message.deduplication_id for message in queue.sent}) == 1


def test_what_can_never_be_published_is_told_and_nothing_more(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task has its dead letter, and must not come again for its errbacks; SQS away is waited for."""
    queue = Queue(MessageRefusedError("too large"))
    monkeypatch.setattr(kombutransport.Transport, "queue", staticmethod(lambda _: queue))
    with log_lines(errbacks) as logs:
        publish_errbacks(given_up(ERRBACK))
    assert [entry["event"] for entry in logs] == ["errbacks.not_published"]
    queue.error = ServiceUnavailableError("away")
    with pytest.raises(ServiceUnavailableError):
        publish_errbacks(given_up(ERRBACK))
