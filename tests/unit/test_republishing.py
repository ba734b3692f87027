"""Publishes under one task id: those meant twice are two messages, those repeated after a crash are one."""

import pytest
from celery import Celery

from pipeline.transport.publishing import gathering
from pipeline.transport.republishing import tell_apart
from pipeline.transport.stockmessage import DEDUPLICATION_PROPERTY


@pytest.fixture(name="app")
def app_fixture() -> Celery:
    """An app with one task."""
    app = Celery("shop", set_as_current=False)

    @app.task(name="note", shared=False)  # type: ignore[untyped-decorator]
    def note() -> None: ...

    return app


def publish(task_id: str = "t", **properties: str) -> str | None:
    """Publish a task, and return the deduplication id that was chosen for it; None: that of its task id."""
    tell_apart(headers={"id": task_id}, properties=properties)
    return properties.get(DEDUPLICATION_PROPERTY)


def run(app: Celery, *publishes: str, origin: str | None = None) -> list[str | None]:
    """Run a task that publishes these ids; ``origin``: the deduplication id of its own message."""
    from celery._state import _task_stack

    task = app.tasks["note"]
    _task_stack.push(task)
    properties = {DEDUPLICATION_PROPERTY: origin} if origin else {}
    task.push_request(id="runs", called_directly=False, properties=properties)
    try:
        return [publish(each) for each in publishes]
    finally:
        task.pop_request()
        _task_stack.pop()


def test_each_publish_of_a_client_is_its_own() -> None:
    """As Celery sends it: a signature that is applied twice runs twice."""
    assert len({publish(), publish()} - {None}) == 2


def test_the_clients_own_deduplication_id_counts() -> None:
    """Whoever names one wants one message."""
    assert publish(**{DEDUPLICATION_PROPERTY: "mine"}) == "mine"


def test_a_run_that_is_repeated_publishes_the_same(app: Celery) -> None:
    """The first of an id has that of its task id; the next ones differ, each time in the same way."""
    first, second = run(app, "t", "u", "t", "t"), run(app, "t", "u", "t", "t")
    assert first == second
    assert first[:2] == [None, None]
    assert len(set(first[2:])) == 2


def test_what_a_canvas_publishes_that_is_applied_again_is_its_own(app: Celery) -> None:
    """By the message of the task that publishes it, which is the same for each delivery."""
    assert run(app, "t", origin="a") == run(app, "t", origin="a")
    assert run(app, "t", origin="a") != run(app, "t", origin="b")
    assert run(app, "t", origin="a") != [None]


def test_what_is_published_together_is_one_message_an_id() -> None:
    """``publish_many`` may be repeated under the ids that it returned."""
    with gathering():
        assert publish() is None
    with gathering("a"):
        assert publish() == publish() is not None
