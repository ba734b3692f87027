"""Chords on a real worker: the body runs once with all results, or its errback; nothing hangs."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import CPendingDeprecationWarning

from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.integration import canvas
from tests.integration.shop import Shop, open_shop


@pytest.fixture(scope="module")
def shop(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop with one worker of two children that all tests of this module share."""
    with open_shop(
        embedded_services,
        make_environment,
        tmp_path_factory.mktemp("chords"),
        TASK_MODULES=canvas.__name__,
        MAX_RETRIES="0",
    ) as shop:
        shop.app.set_current()
        worker = shop.start()
        yield shop
        assert worker.poll() is None, "something ended the worker:\n" + shop.log()[-8000:]
        assert shop.stop(worker) == 0


@pytest.fixture(name="key")
def key_fixture() -> str:
    """What the lines of this test are found by."""
    return uuid.uuid4().hex


def collected(shop: Shop, key: str) -> Any:
    """What the body was given, once nothing is left that could give it anything more."""
    shop.wait_line(key, "collected")
    shop.wait_empty()
    (line,) = shop.lines(key)
    return line["results"]


def errored(shop: Shop, key: str) -> str:
    """What the body's errback was given, once nothing is left."""
    shop.wait_line(key, "failed")
    shop.wait_empty()
    (line,) = shop.lines(key)
    return str(line["error"])


def gs(*values: Any) -> list[Any]:
    """Header tasks that return these."""
    return [canvas.give.s(value) for value in values]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (lambda: gs(3, 1, 2), [3, 1, 2]),
        (lambda: (canvas.give.s(n) for n in range(12)), list(range(12))),
        (lambda: gs({"größer": "漢字"}, None, 1.5), [{"größer": "漢字"}, None, 1.5]),
        (lambda: [chain(canvas.give.s(1), canvas.give.s(2)), canvas.give.s(3)], [2, 3]),
        # Celery's canvas turns a group in a header around.
        (lambda: [group(*gs(1, 2)), canvas.give.s(3)], [2, 1, 3]),
        (lambda: [chain(canvas.give.s(0), group(*gs(1, 2))), canvas.give.s(3)], [[1, 2], 3]),
        (lambda: [chord(gs(1, 2), canvas.total.s()), canvas.give.s(4)], [3, 4]),
        (lambda: [chain(canvas.give.s(0), chord(gs(1, 2), canvas.total.s())), canvas.give.s(4)], [3, 4]),
        (lambda: [canvas.become_task.s(1), canvas.give.s(2)], [1, 2]),
        (lambda: [canvas.become_group.s(1), canvas.give.s(3)], [[1, 2], 3]),
        (lambda: [canvas.nest.s(2), canvas.give.s(3)], [4, 3]),
        (list, []),
    ],
    ids=[
        "tasks",
        "generator",
        "json",
        "chain",
        "group",
        "chain-ends-in-group",
        "chord",
        "chain-ends-in-chord",
        "replaced",
        "replaced-by-group",
        "replaced-by-chord",
        "empty",
    ],
)
def test_the_body_gets_all_results_in_order_once(
    shop: Shop, key: str, header: Callable[[], Any], expected: list[Any]
) -> None:
    """Whatever the header is made of."""
    chord(header())(canvas.collect.s(key))
    assert collected(shop, key) == expected


def test_a_header_task_may_add_another(shop: Shop, key: str) -> None:
    """``add_to_chord``: the body waits for it."""
    chord([canvas.add_one.s(1), canvas.give.s(5)])(canvas.collect.s(key))
    assert sorted(collected(shop, key)) == [1, 2, 5]


@pytest.mark.parametrize(
    "canvas_of",
    [
        lambda key: group(*gs(1, 2)) | canvas.total.s() | canvas.collect.s(key),
        lambda key: chain(canvas.give.s(0), group(*gs(1, 2)), canvas.total.s(), canvas.collect.s(key)),
        lambda key: chord(gs(1, 2), chain(canvas.total.s(), canvas.collect.s(key))),
        lambda key: (
            chord([chord(gs(1, 1), canvas.total.s()), chord(gs(1), canvas.total.s())], canvas.total.s())
            | canvas.collect.s(key)
        ),
        lambda key: chord(gs(1, 2), chord([canvas.total.s()], canvas.total.s())) | canvas.collect.s(key),
        lambda key: chord(gs(1, 2), canvas.total.s()).set(link=canvas.collect.s(key)),
    ],
    ids=["upgraded", "in-a-chain", "body-is-a-chain", "nested", "body-is-a-chord", "link"],
)
def test_canvas_around_chords_runs_to_its_end(shop: Shop, key: str, canvas_of: Callable[[str], Any]) -> None:
    """Each of them comes to three, and says so once."""
    canvas_of(key).apply_async()
    assert collected(shop, key) == 3


def test_a_body_may_be_a_group(shop: Shop, key: str) -> None:
    """Each of its tasks gets the results."""
    (chord(gs(1, 2), group(canvas.collect.s(f"{key}-a"), canvas.collect.s(f"{key}-b")))).apply_async()
    assert collected(shop, f"{key}-a") == collected(shop, f"{key}-b") == [1, 2]


# ─── Failure ───

DEPENDENCY = "celery.exceptions.ChordError: Dependency"


@pytest.mark.parametrize(
    "header",
    [
        lambda: [canvas.give.s(1), canvas.refuse.s()],
        lambda: [chain(canvas.refuse.s(), canvas.give.s(1), canvas.give.s(2)), canvas.give.s(3)],
        lambda: [chain(canvas.refuse.s(), group(*gs(1, 2))), canvas.give.s(3)],
        lambda: [chord([canvas.refuse.s(), canvas.give.s(1)], canvas.total.s()), canvas.give.s(3)],
        lambda: [chain(canvas.refuse.s(), chord(gs(1, 2), canvas.total.s())), canvas.give.s(3)],
        lambda: [chord(gs(1), canvas.refuse.s()), canvas.give.s(3)],
        lambda: [canvas.ignored.s(), canvas.give.s(1)],
        lambda: [chain(canvas.ignored.s(), canvas.give.s(1)), canvas.give.s(2)],
        lambda: [canvas.refuse.s(), canvas.refuse.s()],
        lambda: [canvas.give.s(1).set(expires=-1), canvas.give.s(2)],
    ],
    ids=[
        "task",
        "chain",
        "before-a-group",
        "nested-header",
        "before-a-chord",
        "nested-body",
        "ignored",
        "ignored-in-a-chain",
        "all",
        "expired",
    ],
)
def test_a_header_that_fails_calls_the_bodys_errback_once(
    shop: Shop, key: str, header: Callable[[], Any]
) -> None:
    """With Celery's ChordError; the body does not run, and nothing waits."""
    chord(header())(canvas.collect.s(key).on_error(canvas.failed.s(key)))
    assert errored(shop, key).startswith(DEPENDENCY)


def test_an_errback_of_the_chord_itself_is_called(shop: Shop, key: str) -> None:
    """``link_error`` of the chord."""
    failing = chord([canvas.give.s(1), canvas.refuse.s()], canvas.collect.s(key))
    with pytest.warns(CPendingDeprecationWarning):
        failing.link_error(canvas.failed.s(key))
    failing.apply_async()
    assert "Dependency" in errored(shop, key)
    assert "PermanentError('as asked')" in shop.lines(key)[0]["error"]


def test_a_body_that_is_a_group_fails_task_by_task(shop: Shop, key: str) -> None:
    """Each with the header task's own error, as Celery does it."""
    body = group(
        canvas.collect.s(key).on_error(canvas.failed.s(f"{key}-a")),
        canvas.collect.s(key).on_error(canvas.failed.s(f"{key}-b")),
    )
    chord([canvas.refuse.s()], body).apply_async()
    assert (
        errored(shop, f"{key}-a") == errored(shop, f"{key}-b") == "pipeline.errors.PermanentError: as asked"
    )


def test_a_redriven_header_task_still_completes_its_chord(shop: Shop, key: str, tmp_path: Path) -> None:
    """If another one is still to come: done wins over failed until the chord is decided."""
    path, last = tmp_path / "there", canvas.give.s(2)
    result = chord([canvas.refuse_unless.s(str(path), 1), last.set(countdown=6)])(canvas.collect.s(key))
    letter = shop.wait_letter(result.parent.results[0].id)
    path.touch()
    shop.send_raw(letter.body)
    assert collected(shop, key) == [1, 2]


def test_results_too_large_for_a_message_fail_the_chord(shop: Shop, key: str) -> None:
    """Without a bucket: the body cannot be sent, and its errback says so."""
    chord([canvas.large.s(350_000) for _ in range(4)])(canvas.collect.s(key).on_error(canvas.failed.s(key)))
    assert errored(shop, key).startswith("celery.exceptions.ChordError: Callback error")


def test_a_frozen_canvas_may_be_applied_again(shop: Shop, key: str) -> None:
    """Each time is a run of its own, with the same ids: all of it runs again."""
    frozen = chain(
        canvas.give.s(0),
        chord([chain(canvas.give.s(1), canvas.give.s(2)), canvas.nest.si(2)], canvas.total.s()),
        canvas.collect.s(key),
    )
    frozen.freeze()
    frozen.apply_async()
    assert collected(shop, key) == 6
    frozen.apply_async()
    assert [line["results"] for line in shop.wait_line(key, "collected", 2)] == [6, 6]
    again = chord(gs(1, 2), canvas.collect.s(f"{key}-chord"))
    again.freeze()
    for count in (1, 2):
        again.apply_async()
        shop.wait_line(f"{key}-chord", "collected", count)
    shop.wait_empty()
    assert len(shop.lines(f"{key}-chord")) == len(shop.lines(key)) == 2
