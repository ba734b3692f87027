"""Actions of the jobs page on many dead letters: their duration and counts."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import ValidationError

from pipeline.author.registry import Registry
from pipeline.deadletters import Filter
from pipeline.deadletters.queuescan import QueueScan
from pipeline.settings import load_settings
from pipeline.sqs import ReceivedMessage
from pipeline.web.access import Access
from pipeline.web.actions import ACTIONS, TIME, Actions
from pipeline.web.api import make_api
from pipeline.web.letters import Letters
from pipeline.web.pages.deadletters import letters_router
from pipeline.web.pages.forms import forms_router
from pipeline.web.pages.frame import Pages
from pipeline.web.pages.jobs import jobs_router
from pipeline.web.requests import JobRequest, RedriveRequest, SubmitRequest
from tests.unit.test_deadletters import ENVIRONMENT, Queue, SlowRedriver, scan_of

LETTERS = 10_000


class SlowQueue(Queue):
    """Takes half a second to hand out ten: 500 seconds for all."""

    def receive(self, most: int = 10, **options: Any) -> list[ReceivedMessage]:
        """Those, later."""
        self.now += 0.5
        return super().receive(most, **options)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> SlowQueue:
    """The dead-letter queue; its clock is that of who goes through it."""
    queue = SlowQueue(messages={f"m{n}": f"dead-{n}" for n in range(LETTERS)})
    monkeypatch.setattr("pipeline.deadletters.listing.sqs_client", lambda _: None)
    monkeypatch.setattr("pipeline.deadletters.listing.SqsQueue", lambda *_: queue)
    monkeypatch.setattr("pipeline.deadletters.listing.QueueScan", scan_of)
    for module in ("pipeline.web.actions", "pipeline.deadletters.bulk"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: queue.now))
    return queue


@pytest.fixture
def actions(monkeypatch: pytest.MonkeyPatch, queue: SlowQueue) -> Iterator[Actions]:
    """Those of a page; they may take so long as a request may, and a moment to end."""

    def redriver(*services: Any, out_of_order: bool) -> SlowRedriver:
        assert not out_of_order
        (scan,) = [each for each in services if isinstance(each, QueueScan)]
        return SlowRedriver(scan, queue)

    monkeypatch.setattr("pipeline.web.actions.Redriver", redriver)
    monkeypatch.setattr(Actions, "_producer", lambda _: None)
    settings = load_settings(ENVIRONMENT)
    began = queue.now
    yield Actions(settings, None, None, Letters(settings))  # type: ignore[arg-type]
    assert queue.now - began < TIME + 3


def test_letters_that_are_named_end_the_scan(actions: Actions, queue: SlowQueue) -> None:
    """Five of a page are redriven without a look at the thousands behind them."""
    ids = frozenset({"m7", "m8", "m9", "m10", "m11"})
    tally = actions.redrive(Filter(ids=ids))
    assert (tally.counts, tally.finished) == ({"redriven": 5}, True)
    assert queue.messages.keys() == {f"m{n}" for n in range(LETTERS)} - ids


def test_one_name_may_be_that_of_several_letters(actions: Actions) -> None:
    """A task's id does not end the scan, the time does: another letter of the task may be behind."""
    tally = actions.redrive(Filter(ids=frozenset({"m7", "a task's"}), place="sqs"))
    assert (tally.counts, tally.finished) == ({"redriven": 1}, False)


def test_letters_that_are_not_met_end_with_the_time(actions: Actions, queue: SlowQueue) -> None:
    """No answer comes for hundreds of seconds, and the request ends all the same."""
    tally = actions.redrive(Filter(error="Nothing", place="sqs"))
    assert (tally.counts, tally.finished) == ({}, False)
    assert len(queue.messages) == LETTERS


def test_a_redrive_that_is_broken_off_counts_all_it_did(actions: Actions, queue: SlowQueue) -> None:
    """It redrives what it met in half its time, and what was begun together is counted to the end."""
    tally = actions.redrive(Filter(place="sqs"))
    assert not tally.finished
    assert tally.counts == {"redriven": LETTERS - len(queue.messages)}
    assert tally.counts["redriven"] >= 40


def test_a_purge_that_is_broken_off_counts_all_it_did(actions: Actions, queue: SlowQueue) -> None:
    """Removed dead letters are counted, because they are gone."""
    tally = actions.purge(Filter(place="sqs"), "dlq.fifo")
    assert not tally.finished
    assert tally.counts == {"purged": LETTERS - len(queue.messages)}


# ─── The table ───


def test_each_action_is_one_route_and_one_form() -> None:
    """The API and the pages have a POST for each action of the table, at the same path, and no other."""
    settings = load_settings(ENVIRONMENT)
    site: Any = SimpleNamespace(
        settings=settings, registry=Registry(), access=Access(settings), live=None, actions=None
    )
    pages = Pages(settings, site.access)
    described = make_api(site).openapi()["paths"]
    routers = [jobs_router(site, pages), letters_router(site, pages), forms_router(site, pages, {})]
    paths = sorted(action.path for action in ACTIONS.values())
    assert sorted(path for path, methods in described.items() if "post" in methods) == paths
    assert sorted(_posts(routers)) == paths


def _posts(routers: list[APIRouter]) -> list[str]:
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    return [route.path for route in routes if "POST" in (route.methods or ())]


@pytest.mark.parametrize("job", [None, "job-1"])
def test_a_form_asks_for_the_fields_with_a_title(job: str | None) -> None:
    """Values that the page has are hidden in the form; the others are asked for."""
    pages = Pages(load_settings(ENVIRONMENT), Access(load_settings(ENVIRONMENT)))
    macros: Any = pages._templates.get_template("macros.html").make_module()
    html = macros.form(ACTIONS["purge"], {"job_id": job, "before": 12.5})
    assert 'action="/dead-letters/purge"' in html
    assert '<input type="hidden" name="before" value="12.5">' in html
    assert ('name="job_id" value="job-1"' in html) is (job is not None)
    assert '<input type="text" name="queue" value="" required' in html
    assert 'name="error"' not in html


def test_a_form_is_read_into_the_request_of_the_api() -> None:
    """Blank fields are left out, repeated ones are a list, and the data of a job is JSON as typed."""
    redrive = RedriveRequest.of_form({"ids": ["a", "b"], "stage": [""], "out_of_order": ["yes"]}, {})
    assert redrive == RedriveRequest(ids=["a", "b"], out_of_order=True)
    submit = SubmitRequest.of_form({"start": ["mend"], "data": [' {"n": 1.10} '], "entity_id": [" "]}, {})
    assert (submit.event_data(), submit.entity_id) == (b'{"n": 1.10}', None)
    assert JobRequest.of_form({}, {"job_id": "j"}).job_id == "j"
    with pytest.raises(ValidationError, match="select dead letters"):
        RedriveRequest.of_form({"ids": [""]}, {})
