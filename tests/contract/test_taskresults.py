"""Records of results: the same promises on the embedded and on the local services."""

import uuid
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import pytest

from pipeline.errors import ServiceUnavailableError
from pipeline.jobs import JobStore, RecordedResult, TaskResults
from pipeline.payloads import PayloadsOffError
from pipeline.payloads.bucket import Bucket, bucket_need
from pipeline.services.environment import Services
from tests.conftest import MakeSettings
from tests.payloads import keys
from tests.proxies import Proxy


class Clock:
    """The time, which a test sets."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def results(services: Services, make_settings: MakeSettings, clock: Callable[[], float]) -> TaskResults:
    """The results of a service with a table of its own."""
    store = JobStore(make_settings(services), clock=clock)
    store.schema.provision()
    return store.results


def result(state: str, text: str | None = None, task_id: str = "t", **fields: Any) -> RecordedResult:
    return RecordedResult(task_id=task_id, state=state, text=text or f'"{state}"', **fields)


def state_of(results: TaskResults, task_id: str = "t") -> str | None:
    found = results.get(task_id)
    return found.state if found else None


ORDERS = [*permutations(("STARTED", "RETRY", "SUCCESS")), *permutations(("RETRY", "FAILURE", "SUCCESS"))]


@pytest.mark.parametrize("together", [False, True])
def test_whatever_the_order_the_success_stays(results: TaskResults, together: bool) -> None:
    """Writes overtake each other, one by one or in one batch."""
    for number, order in enumerate(ORDERS):
        written = [result(state, task_id=f"t-{number}") for state in order]
        if together:
            assert results.put_many(written) == [None] * len(order)
        else:
            for each in written:
                results.put(each)
    assert [state_of(results, f"t-{number}") for number in range(len(ORDERS))] == ["SUCCESS"] * len(ORDERS)


def test_the_first_success_counts(results: TaskResults) -> None:
    """A run that was repeated returned something else; it changes nothing."""
    results.put(result("SUCCESS", '"first"', message_id="m-1"))
    results.put(result("SUCCESS", '"second"', message_id="m-2"))
    assert results.put_many([result("SUCCESS", '"third"', message_id="m-3")]) == [None]
    found = results.get("t")
    assert found
    assert (found.text, found.message_id) == ('"first"', "m-1")


@pytest.mark.parametrize("end", ["FAILURE", "REVOKED"])
def test_an_end_gives_way_to_a_success_only(results: TaskResults, end: str) -> None:
    """Not to a state of its own, a retry, or the other end."""
    results.put(result(end))
    for state in ("PROGRESS", "RETRY", "STARTED", "FAILURE", "REVOKED"):
        results.put(result(state, '"later"'))
    found = results.get("t")
    assert found
    assert (found.state, found.text) == (end, f'"{end}"')
    results.put(result("SUCCESS"))
    assert state_of(results) == "SUCCESS"


def test_many_are_written_and_read_together(results: TaskResults) -> None:
    """More than a request takes, of which some began before."""
    ids = [uuid.uuid4().hex for _ in range(130)]
    for task_id in ids[::7]:
        results.put(result("STARTED", task_id=task_id))
    assert results.put_many([result("SUCCESS", f'"{each}"', each) for each in ids]) == [None] * 130
    found = results.get_many([*ids, "nobody's"])
    assert {task_id: each.text for task_id, each in found.items()} == {each: f'"{each}"' for each in ids}


def test_a_message_is_over_once_its_own_success_is_recorded(results: TaskResults) -> None:
    """Not by another message of the same task, nor by a failure."""
    results.put(result("SUCCESS", task_id="a", message_id="m-a"))
    results.put(result("FAILURE", task_id="b", message_id="m-b"))
    results.put(result("STARTED", task_id="c"))
    asked = [("a", "m-a"), ("b", "m-b"), ("c", "m-c"), ("d", "m-d")]
    assert results.ended_by(asked) == {("a", "m-a")}
    assert results.ended_by([("a", "another")]) == set()


def test_a_result_is_over_when_it_expires(results: TaskResults, clock: Clock) -> None:
    """DynamoDB deletes it later; one that is kept for ever stays, also if it began with a time."""
    results.put(result("SUCCESS", keep_seconds=60))
    results.put(result("STARTED", task_id="kept", keep_seconds=60))
    results.put(result("SUCCESS", task_id="kept", keep_seconds=None))
    results.save_group("g", "[]", 60)
    assert state_of(results) == "SUCCESS"
    clock.now += 61
    assert state_of(results) is None
    assert results.get_many(["t", "kept"]).keys() == {"kept"}
    assert results.group("g") is None


def test_what_is_forgotten_is_gone(results: TaskResults) -> None:
    """A result, and a group without its results."""
    results.put(result("SUCCESS"))
    results.save_group("g", '["t"]', None)
    assert results.group("g") == '["t"]'
    results.forget_group("g")
    assert results.group("g") is None
    results.forget("t")
    results.forget("t")
    assert state_of(results) is None


def test_a_large_one_needs_a_bucket(results: TaskResults) -> None:
    """It is refused with the setting's name, and the others of its batch are written."""
    text = '"' + "z" * 400_000 + '"'
    assert not results.takes(text)
    refused, written = results.put_many(
        [result("SUCCESS", text, "large"), result("SUCCESS", task_id="small")]
    )
    assert isinstance(refused, PayloadsOffError)
    assert "PAYLOAD_BUCKET" in str(refused)
    assert written is None
    assert state_of(results, "small") == "SUCCESS"


def test_a_large_one_is_kept_on_s3(embedded_services: Services, make_settings: MakeSettings) -> None:
    """Whatever the task's id is."""
    settings = make_settings(embedded_services, PAYLOAD_BUCKET=f"results-{uuid.uuid4().hex[:12]}")
    need = bucket_need(settings)
    assert need
    Bucket(need).provision(update=False)
    store = JobStore(settings)
    store.schema.provision()
    text = '"' + "z" * 400_000 + '"'
    for task_id in ("plain-id", "größe / 1"):
        assert store.results.takes(text)
        assert store.results.put_many([result("SUCCESS", text, task_id)]) == [None]
        found = store.results.get(task_id)
        assert found
        assert found.text == text
    assert len(keys(settings)) == 2


@pytest.fixture
def away(services: Services, make_settings: MakeSettings) -> Iterator[TaskResults]:
    """The results of a service whose table cannot be reached."""
    with Proxy(services.environment["AWS_ENDPOINT_URL_DYNAMODB"]) as proxy:
        proxy.cut()
        yield JobStore(make_settings(services, AWS_ENDPOINT_URL_DYNAMODB=proxy.url)).results


def test_an_outage_is_answered_for_each(away: TaskResults) -> None:
    """So that settlement waits and writes them again."""
    answers = away.put_many([result("SUCCESS", task_id=each) for each in "ab"])
    assert [type(each) for each in answers] == [ServiceUnavailableError] * 2
    with pytest.raises(ServiceUnavailableError):
        away.get("a")
