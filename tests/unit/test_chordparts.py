"""Which chords a message belongs to, as Celery's canvas writes it."""

import json
from typing import Any

import pytest
from celery import Celery, chain, chord, group

from pipeline.results.chordparts import abandoned, body_tasks, membership, never_run

BODY = {"task": "body", "options": {"task_id": "b"}}


@pytest.fixture(name="app")
def app_fixture() -> Celery:
    """An app without a broker: its canvas is only frozen."""
    return Celery("shop", backend="cache+memory://", set_as_current=False)


def s(app: Celery, name: str) -> Any:
    """A signature whose task id is its name."""
    return app.signature(name, app=app, task_id=name)


def as_json(signature: Any) -> Any:
    """A signature as it travels."""
    return json.loads(json.dumps(signature))


def header_of(app: Celery, *tasks: Any) -> list[Any]:
    """The tasks of a chord's header, as they travel once it is applied."""
    header = group(list(tasks), app=app)
    header._freeze_group_tasks(group_id="g", chord=s(app, "body"))
    return [as_json(task) for task in header.tasks]


def lost(signature: Any) -> list[str]:
    """The ids of the header tasks that end with a signature that never runs."""
    return [place.part.task_id for place in never_run(signature)]


def test_a_header_task_is_known_by_group_id_and_index() -> None:
    """Two of a header may share an id or an index."""
    headers = {"id": "t", "group": "g", "group_index": 2}
    place = membership(headers, {"chord": BODY})
    assert place
    assert (place.part.chord_id, place.part.task_id, place.part.index) == ("g", "t", 2)
    run = membership(headers, {"chord": {**BODY, "run": "r"}})
    assert run
    assert run.part.chord_id == "g.r"


@pytest.mark.parametrize(
    ("headers", "chord"),
    [
        ({"id": "t", "group": "g"}, None),
        ({"id": "t", "group": None}, BODY),
        ({"id": "t", "group": "g"}, "text"),
        ({"id": "t", "group": 7}, BODY),
    ],
)
def test_what_is_in_no_chord_has_no_place(headers: dict[str, Any], chord: Any) -> None:
    """Also what somebody else wrote."""
    assert membership(headers, {"chord": chord}) is None


@pytest.mark.parametrize("index", [None, -1, "1", 10**12, 1.5])
def test_an_index_that_is_none_comes_last(index: Any) -> None:
    """What is no index of Celery's must not become a part of a key."""
    place = membership({"id": "t", "group": "g", "group_index": index}, {"chord": BODY})
    assert place
    assert place.part.index == 999_999_999


def test_a_chain_that_ends_early_ends_its_last_task(app: Celery) -> None:
    """The chain's own list is in a message, in reverse."""
    (frozen,) = header_of(app, chain(s(app, "a"), s(app, "b"), s(app, "c"), app=app))
    assert lost(frozen) == ["c"]
    rest = list(reversed(frozen["kwargs"]["tasks"][1:]))
    ids = [each.part.task_id for each in abandoned({"id": "a", "group": None}, {"chain": rest})]
    assert ids == ["c"]


def test_a_chain_of_links_ends_its_last_task() -> None:
    """As protocol 1 has it: each task is a callback of the one before."""
    last = {"task": "c", "options": {"task_id": "c", "group_id": "g", "chord": BODY}}
    link = {"task": "b", "options": {"task_id": "b", "link": [last]}}
    ids = [each.part.task_id for each in abandoned({"id": "a"}, {"callbacks": [link]})]
    assert ids == ["c"]


def test_the_tasks_of_a_group_at_its_end_are_all_ended(app: Celery) -> None:
    """Each of them counts."""
    end = group(s(app, "b"), s(app, "c"), app=app)
    (frozen,) = header_of(app, chain(s(app, "a"), end, app=app))
    assert sorted(lost(frozen)) == ["b", "c"]


def test_of_a_chord_the_body_is_ended_and_not_the_header(app: Celery) -> None:
    """Its header counts in its own chord, whose body never runs either."""
    inner = chord([s(app, "a"), s(app, "b")], s(app, "inner"), app=app)
    (frozen,) = header_of(app, inner)
    assert lost(frozen) == ["inner"]


@pytest.mark.parametrize("signature", [None, 7, {}, {"task": "x", "options": 3}, {"task": "celery.chain"}])
def test_what_is_no_signature_ends_nothing(signature: Any) -> None:
    """A message may hold anything."""
    assert lost(signature) == []


def test_a_bodys_errbacks_are_called_for_the_task_whose_result_it_is(app: Celery) -> None:
    """Of a group for each of its tasks, with those of the group; of a chain for its last."""
    errback, other = as_json(s(app, "e")), as_json(s(app, "f"))
    alone = s(app, "b").on_error(s(app, "e"))
    assert [(each.task_id, each.errbacks) for each in body_tasks(as_json(alone))] == [("b", [errback])]
    both = group(s(app, "a").on_error(s(app, "e")), s(app, "b"), app=app)
    both.options["link_error"] = [s(app, "f")]
    assert [(each.task_id, each.errbacks) for each in body_tasks(as_json(both))] == [
        ("a", [errback, other]),
        ("b", [other]),
    ]
    line = chain(s(app, "a"), s(app, "b"), app=app)
    assert [each.task_id for each in body_tasks(as_json(line))] == ["b"]
