"""Chords in a service that keeps results and has a bucket: what callers see of them, whatever their size."""

import uuid
from collections.abc import Iterator

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError

from pipeline import PermanentError
from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.integration import canvas
from tests.integration.shop import Shop, open_shop
from tests.processes import PATIENCE

#: More than an item, and than half of a message.
LARGE = 600_000


@pytest.fixture(scope="module")
def shop(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop with one worker that all tests of this module share."""
    with open_shop(
        embedded_services,
        make_environment,
        tmp_path_factory.mktemp("chords"),
        TASK_MODULES=canvas.__name__,
        MAX_RETRIES="0",
        RESULTS="true",
        PAYLOAD_BUCKET="chord-payloads",
    ) as shop:
        shop.app.set_current()
        worker = shop.start()
        yield shop
        assert worker.poll() is None, shop.log()[-8000:]
        assert shop.stop(worker) == 0


def test_the_result_of_a_chord_is_that_of_its_body(shop: Shop) -> None:
    """Its parent is the header's."""
    result = chord(
        [canvas.give.s(1), chain(canvas.give.s(1), canvas.give.s(2))], canvas.total.s()
    ).apply_async()
    assert result.get(timeout=PATIENCE) == 3
    assert result.parent.get(timeout=PATIENCE) == [1, 2]


def test_results_and_bodies_of_any_size(shop: Shop) -> None:
    """A result too large for an item, and a body too large for a message, go by the bucket."""
    result = chord(
        [canvas.large.s(LARGE), canvas.large.s(LARGE), canvas.large.s(3)], canvas.lengths.s()
    ).apply_async()
    assert result.get(timeout=PATIENCE) == [LARGE, LARGE, 3]


def test_a_header_task_whose_message_is_on_s3_counts(shop: Shop) -> None:
    """Settlement reads there which chord it is in, also when it fails."""
    big = "z" * 1_100_000
    result = chord([canvas.give.s(big, 1), canvas.give.s(2)], canvas.total.s()).apply_async()
    assert result.get(timeout=PATIENCE) == 3
    result = chord([canvas.refuse.s(big), canvas.give.s(2)], canvas.total.s()).apply_async()
    with pytest.raises(PermanentError, match="as asked"):
        result.get(timeout=PATIENCE)


def test_a_failed_header_is_the_failure_of_all_that_waits_for_the_body(shop: Shop) -> None:
    """Of the body, of what follows it, and of the chord whose header it is in; ``get`` raises the first."""
    key = uuid.uuid4().hex
    inner = chord([canvas.refuse.s(), canvas.give.s(1)], canvas.total.s())
    outer = chord([inner, canvas.give.s(2)], chain(canvas.total.s(), canvas.collect.s(key)))
    result = outer.apply_async()
    with pytest.raises(ChordError, match="raised ChordError"):
        result.get(timeout=PATIENCE, follow_parents=False)
    with pytest.raises(ChordError, match="raised PermanentError"):
        result.get(timeout=PATIENCE)
    shop.wait_empty()
    assert shop.lines(key) == []


def test_a_chord_behind_a_body_that_is_a_group_fails_with_it(shop: Shop) -> None:
    """Whatever stands between the failure and the result that is waited for."""
    first = chord([canvas.refuse.s(), canvas.give.s(1)], group(canvas.give.s(1), canvas.give.s(2)))
    result = chain(first, chord([canvas.give.s(1), canvas.give.s(2)], canvas.total.s())).apply_async()
    with pytest.raises(PermanentError, match="as asked"):
        result.get(timeout=PATIENCE, follow_parents=False)


def test_a_group_behind_a_failed_task_fails_with_it(shop: Shop) -> None:
    """Who waits for the group waits for its tasks."""
    behind = group(canvas.give.s(1), chain(canvas.give.s(2), canvas.give.s(3)))
    result = chain(canvas.give.s(1), canvas.refuse.s(), behind).apply_async()
    with pytest.raises(PermanentError, match="as asked"):
        result.get(timeout=PATIENCE)
    with pytest.raises(PermanentError, match="as asked"):
        result[1].get(timeout=PATIENCE, follow_parents=False)


def test_the_tasks_of_a_body_that_is_a_group_fail_with_the_headers_error(shop: Shop) -> None:
    """As in Celery."""
    result = chord([canvas.refuse.s()], group(canvas.total.s(), canvas.total.s())).apply_async()
    for each in result.results:
        with pytest.raises(Exception, match="as asked"):
            each.get(timeout=PATIENCE)
