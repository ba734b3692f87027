"""Settlement, retry and screen, with fakes in place of the services: who is deleted, given back, buried."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from config.settings import Settings
from pipeline.errors import PermanentError, ServiceRefusedError, ServiceUnavailableError
from pipeline.jobs import AlreadyDone as Known
from pipeline.jobs import StageRef
from pipeline.jobs.errors import table_error
from pipeline.patience import Patience
from pipeline.registry import Registry
from pipeline.sqs import QUEUE_RETENTION, ReceivedMessage
from pipeline.stages import stage
from pipeline.taskmessage import HEADER, TaskHeader
from pipeline.transport.intake import Intake
from pipeline.transport.lease import LONGEST_HOLD, Lease, Phase
from pipeline.worker import retry
from pipeline.worker.outcome import (
    AlreadyDone,
    Cancelled,
    Discarded,
    Failed,
    Outcome,
    Returned,
    Succeeded,
    failed,
)
from pipeline.worker.retry import LONGEST_BACKOFF, Retries
from pipeline.worker.screen import SUSPECT_BEYOND, Screen
from pipeline.worker.settlement import Settlement
from pipeline.worker.work import Work
from tests.loglines import log_lines

SUCCESS = Succeeded(result=None, summary="", seconds=0)
SETTINGS = Settings(
    service_name="s",
    kafka_bootstrap_servers="k",
    kafka_consumer_group="g",
    sqs_task_queue_url="http://q/1/a.fifo",
    sqs_dlq_url="http://q/1/b.fifo",
    max_retries=2,
    retry_delay=5,
)


def registry() -> Registry:
    made = Registry()

    @stage(consumes="a", retries=0, retry_delay=100, registry=made)
    def strict(data: int) -> None: ...

    return made


def message(name: str, receive_count: int = 1, sent_at: float = 0) -> ReceivedMessage:
    return ReceivedMessage(
        message_id=name,
        receipt_handle=f"h-{name}",
        body="",
        group_id=name,
        deduplication_id=name,
        receive_count=receive_count,
        sent_at=sent_at,
        attributes={},
        requested_at=1e9,
    )


def pipeline_header(**changes: Any) -> dict[str, Any]:
    """The header of a task of the stage ``strict``."""
    return {
        "job_id": "j",
        "stage": "strict",
        "role": "run",
        "event_source": "s",
        "event_id": "e",
        "entity_id": "e",
        "topic": "a",
        "partition": 0,
        "offset": 0,
        "submitted_at": 1000.0,
    } | changes


def part_of(ordinal: int, **changes: Any) -> dict[str, Any]:
    """The part in such a header."""
    split_id = TaskHeader.model_validate(pipeline_header()).split_id
    return {"split_id": split_id, "ordinal": ordinal, "total": 1} | changes


def lease(name: str, headers: dict[str, Any] | None = None, **about: Any) -> Lease:
    whole = {"id": f"t-{name}", "task": "note", **(headers or {})}
    return Lease(message=message(name, **about), queue="q", payload={"headers": whole}, deadline=2e9)


class Shelf:
    """An intake whose messages are all delivered, and what settlement did with them."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        #: everything that happened, in order
        self.log: list[str] = []
        self.returned: dict[str, float] = {}
        self.intake = Intake(on_ready=lambda: None, on_unwanted=lambda _: None)
        self.intake.slots = 1_000
        self.disposal = SimpleNamespace(delete=self._delete, give_back=self._give_back)

    def work(self, name: str, outcome: Outcome = SUCCESS, age: float = 0) -> Work:
        self.intake.hold([lease(name, sent_at=time.time() - age)])
        taken = self.intake.take()
        assert taken is not None
        finished = self.intake.finish(taken.tag)
        assert finished is not None
        return Work(lease=finished, outcome=outcome)

    def _delete(self, lease: Lease) -> None:
        if self.intake.leave(lease, Phase.DELETING):
            self.deleted.append(lease.message_id)
            self.log.append("delete")

    def _give_back(self, lease: Lease, delay: float = 0) -> None:
        if self.intake.leave(lease, Phase.RETURNING):
            self.returned[lease.message_id] = delay


class Effects:
    """Kafka and DynamoDB, which fail where a test says so."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.emitted: list[str] = []
        self.recorded: list[str] = []
        self.on_emit: Callable[[Work], Exception | None] = lambda _: None

    def emit(self, works: Sequence[Work]) -> list[Exception | None]:
        self.log.append("emit")
        answers = [self.on_emit(work) for work in works]
        self.emitted += [w.lease.message_id for w, answer in zip(works, answers, strict=True) if not answer]
        return answers

    def record(self, works: Sequence[Work]) -> tuple[list[Exception | None], list[Any]]:
        self.log.append("record")
        self.recorded += [work.lease.message_id for work in works]
        return [None] * len(works), []


class Desk:
    """A settlement over fakes."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.effects = Effects(self.shelf.log)
        self.buried: list[str] = []
        self.reasons: list[str] = []
        self.on_bury: Callable[[Work], None] = lambda _: None
        self.attempts: dict[tuple[str, str], set[int]] = {}
        patience = Patience()
        give_back = self.shelf.disposal.give_back
        retries = Retries(SETTINGS, Registry(), give_back, cast(Any, self), patience, longest=LONGEST_HOLD)
        self.settlement = Settlement(
            cast(Any, self.shelf),
            cast(Any, self.effects),
            cast(Any, SimpleNamespace(close=lambda *_: self.shelf.log.append("close"))),
            retries,
            cast(Any, SimpleNamespace(bury=self._bury)),
            patience,
        )

    def settle(self, *works: Work) -> None:
        self.settlement._see_through(works)

    def add_attempt(self, task_id: str, message_id: str, receive_count: int) -> int:
        counts = self.attempts.setdefault((task_id, message_id), set())
        counts.add(receive_count)
        return len(counts)

    def _bury(self, works: Sequence[Work]) -> None:
        if works:
            self.shelf.log.append("bury")
        for work in works:
            self.on_bury(work)
        self.buried += [work.lease.message_id for work in works]
        self.reasons += [work.outcome.message for work in works if isinstance(work.outcome, Failed)]


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    assert desk.settlement.close(5)


# ─── Settlement ───


def test_each_outcome_has_its_end(desk: Desk) -> None:
    """Done, discarded and cancelled are deleted, returned goes back, failed is tried again, or is buried."""
    shelf = desk.shelf
    desk.settle(
        shelf.work("done"),
        shelf.work("known", AlreadyDone()),
        shelf.work("discarded", Discarded(reason="expired")),
        shelf.work("cancelled", Cancelled()),
        shelf.work("returned", Returned(delay=30)),
        shelf.work("failed", failed(ValueError())),
        shelf.work("permanent", failed(PermanentError())),
    )
    assert set(shelf.deleted) == {"done", "known", "discarded", "cancelled", "permanent"}
    assert set(shelf.returned) == {"returned", "failed"}
    assert shelf.returned["returned"] == 30
    assert desk.buried == ["permanent"]


def test_the_order_is_emit_record_close_delete(desk: Desk) -> None:
    """Recorded implies emitted, deleted implies recorded and closed: a crash anywhere is repaired."""
    desk.settle(desk.shelf.work("a"))
    assert desk.shelf.log == ["emit", "record", "close", "delete"]


def test_a_dead_letter_is_buried_before_it_is_deleted(desk: Desk) -> None:
    """A crash between the two repeats the burial."""
    desk.settle(desk.shelf.work("a", failed(PermanentError())))
    assert desk.shelf.log == ["bury", "delete"]


def test_the_next_of_a_group_starts_once_the_one_before_is_recorded(desk: Desk) -> None:
    """Not before, and not only when it is deleted."""
    shelf = desk.shelf
    first, second = lease("a"), lease("b")
    second.message = replace(second.message, group_id="a")
    shelf.intake.hold([first, second])
    assert shelf.intake.take() is first
    shelf.intake.finish(first.tag)
    assert shelf.intake.take() is None
    desk.settle(Work(lease=first, outcome=SUCCESS))
    assert shelf.intake.is_held(first)
    assert shelf.intake.take() is second


def test_what_never_can_be_emitted_is_buried_and_the_rest_goes_on(desk: Desk) -> None:
    """A result that Kafka refuses would be refused again."""
    refusal = ServiceRefusedError("too large")
    desk.effects.on_emit = lambda work: refusal if work.lease.message_id == "b" else None
    desk.settle(*[desk.shelf.work(name) for name in "abc"])
    assert desk.buried == ["b"]
    assert desk.effects.recorded == ["a", "c"]
    assert sorted(desk.shelf.deleted) == ["a", "b", "c"]


def test_one_that_breaks_settlement_does_not_hold_up_the_others(desk: Desk) -> None:
    """It comes again; nothing of it is deleted."""

    def emit(work: Work) -> None:
        if work.lease.message_id == "poison":
            raise KeyError("a defect of ours")

    desk.effects.on_emit = emit
    desk.settle(*[desk.shelf.work(name) for name in ("a", "poison", "b")])
    assert sorted(desk.shelf.deleted) == ["a", "b"]
    assert desk.shelf.returned == {"poison": SETTINGS.retry_delay}


def test_a_dead_letter_that_cannot_be_buried_undoes_nothing_that_was_settled(desk: Desk) -> None:
    """The done are deleted once, the other dead letter is buried, the refused one comes again."""

    def bury(work: Work) -> None:
        if work.lease.message_id == "refused":
            raise ServiceRefusedError("too large")

    desk.on_bury = bury
    permanent = failed(PermanentError())
    buried = desk.shelf.work("buried", permanent)
    buried.lease.run_until = 1e9
    desk.settle(desk.shelf.work("done"), desk.shelf.work("refused", permanent), buried)
    assert buried.lease.attempts == 1
    assert desk.effects.emitted == ["done"]
    assert sorted(desk.shelf.deleted) == ["buried", "done"]
    assert list(desk.shelf.returned) == ["refused"]
    assert desk.buried == ["buried"]


def test_nothing_waits_for_the_parts_of_a_split(desk: Desk) -> None:
    """Sending them takes long: what failed beside it is given back before."""
    split = desk.shelf.work("split")
    split.lease.header = TaskHeader(**pipeline_header(role="split"))
    back_before: list[dict[str, float]] = []
    desk.effects.on_emit = lambda _: back_before.append(dict(desk.shelf.returned))
    desk.settle(split, desk.shelf.work("failed", failed(ValueError())))
    assert ["failed" in returned for returned in back_before] == [True]
    assert desk.shelf.deleted == ["split"]


def test_what_is_not_finished_is_let_be(desk: Desk) -> None:
    """Settled once, however often it is said."""
    work = desk.shelf.work("a")
    desk.settle(work)
    desk.settle(work)
    assert desk.effects.emitted == ["a"]


# ─── Retry ───


def test_attempts_are_counted_by_what_was_received(desk: Desk) -> None:
    """The same receive twice is one attempt; after the last it is given up."""
    for count in (1, 1, 2, 5):
        work = desk.shelf.work("a", failed(ValueError()))
        work.lease.message = replace(work.lease.message, receive_count=count)
        desk.settle(work)
        desk.shelf.intake.forget(work.lease)
    assert desk.buried == ["a"]
    assert desk.attempts["t-a", "a"] == {1, 2, 5}


@given(attempts=st.integers(1, 5_000))
def test_the_backoff_is_within_its_bounds(attempts: int) -> None:
    """Between nothing and the doubled delay, never above the cap, however many attempts."""
    retries = Retries(SETTINGS, registry(), lambda *_: None, cast(Any, None), Patience(), longest=0)
    plain = retries._backoff(Work(lease=lease("a"), outcome=SUCCESS), attempts)
    assert 0 <= plain <= min(LONGEST_BACKOFF, 5 * 2 ** min(attempts - 1, 20))


def test_a_task_that_names_its_delay_gets_it(desk: Desk) -> None:
    """Above the cap of the computed backoff too."""
    desk.settle(desk.shelf.work("a", Failed(error="e", message="", delay=5_000)))
    assert desk.shelf.returned == {"a": 5_000}


def test_what_its_queue_would_drop_before_its_next_try_is_a_dead_letter(desk: Desk) -> None:
    """After 14 days a message is gone without a word, and its job would wait for ever."""
    almost = QUEUE_RETENTION - 2 * 3600
    for name, delay in (("in time", 60), ("too late", 3 * 3600)):
        desk.settle(desk.shelf.work(name, Failed(error="e", message="no", delay=delay), age=almost))
    assert desk.shelf.returned == {"in time": 60}
    assert desk.buried == ["too late"]
    assert desk.reasons == ["no (not tried again: its queue would have dropped it by then)"]


def test_a_delay_longer_than_sqs_hides_a_message_is_said_to_be_cut(desk: Desk) -> None:
    """It comes sooner than it asked; whoever reads the log is told when, and Flower too."""
    with log_lines(retry) as lines:
        desk.settle(desk.shelf.work("a", Failed(error="e", message="", delay=86_400)))
    assert desk.shelf.returned == {"a": LONGEST_HOLD}
    (line,) = lines
    assert (line["delay"], line["asked"]) == (LONGEST_HOLD, 86_400)


# ─── Screen ───

KEY_TOO_LONG = ClientError(
    {"Error": {"Code": "ValidationException", "Message": "key too long"}}, "BatchGetItem"
)


class Table:
    """A job store that knows what a test says."""

    def __init__(self) -> None:
        self.done: set[Any] = set()
        self.failures: dict[tuple[str, str], int] = {}
        self.asked: list[str] = []
        self.counted: list[tuple[str, str]] = []
        self.away = 0
        #: jobs whose keys it refuses, and with them whatever is asked for together
        self.refused: set[str] = set()

    def already_done(self, refs: Any) -> Known:
        if self.refused & {ref.job_id for ref in refs}:
            raise table_error(KEY_TOO_LONG, "read 2 items in table jobs")
        if self.away:
            self.away -= 1
            raise ServiceUnavailableError("away")
        self.asked += [ref.stage for ref in refs]
        return Known(refs=frozenset(self.done))

    def attempts(self, messages: Any) -> dict[tuple[str, str], int]:
        self.counted += messages
        return self.failures


@pytest.fixture
def known() -> Table:
    return Table()


def screened(known: Table, *leases: Lease, patience: Patience | None = None) -> Sequence[Lease]:
    return Screen(SETTINGS, registry(), cast(Any, known), patience or Patience())(leases)


def staged(name: str, header: dict[str, Any] | None = None, task: str = "strict", **about: Any) -> Lease:
    return lease(name, {"task": task, HEADER: header or pipeline_header()}, **about)


def test_a_first_delivery_in_time_is_not_looked_up(known: Table) -> None:
    """It costs nothing."""
    (held,) = screened(known, staged("a", sent_at=1_100))
    assert held.header is not None
    assert held.verdict is None
    assert not known.asked


@pytest.mark.parametrize("about", [{"receive_count": 2}, {"sent_at": 1_300.0}])
def test_what_may_have_run_is_looked_up(known: Table, about: dict[str, Any]) -> None:
    """Delivered before, or sent so late that SQS may have forgotten the first."""
    known.done = {StageRef(job_id="j", stage="strict")}
    (held,) = screened(known, staged("a", **about))
    assert isinstance(held.verdict, AlreadyDone)


def test_what_comes_for_the_first_time_has_no_attempts(known: Table) -> None:
    """Of a job that runs for hours nearly every task is late: only whether it is done is looked up."""
    screened(known, staged("a", sent_at=1_300), staged("b", sent_at=1_300, receive_count=2))
    assert known.asked == ["strict", "strict"]
    assert known.counted == [("t-b", "b")]


def test_attempts_used_up_are_not_run_again(known: Table) -> None:
    """By the stage's own number of retries."""
    known.failures = {("t-a", "a"): 1, ("t-b", "b"): 1}
    strict, plain = screened(known, staged("a", receive_count=2), lease("b", receive_count=2))
    assert isinstance(strict.verdict, Failed)
    assert strict.verdict.permanent
    assert plain.verdict is None
    assert plain.attempts == 1


def test_received_much_more_often_than_failed_is_a_suspect(known: Table) -> None:
    """It may be killing workers, and never got to fail."""
    known.failures = {("t-b", "b"): 1}
    suspect, tried = screened(
        known,
        lease("a", receive_count=SUSPECT_BEYOND + 1),
        lease("b", receive_count=SUSPECT_BEYOND + 1),
    )
    assert suspect.suspect
    assert not tried.suspect


def test_waiting_for_its_time_makes_no_suspect(known: Table) -> None:
    """Of a day's wait SQS hides no more than 12 hours at a time: such tasks would run one by one."""
    eta = datetime.fromtimestamp(86_400, UTC).isoformat()
    waits = math.ceil(86_400 / LONGEST_HOLD)
    waited, killing, long_there, redriven = screened(
        known,
        lease("a", {"eta": eta}, receive_count=waits + SUSPECT_BEYOND),
        lease("b", {"eta": eta}, receive_count=waits + SUSPECT_BEYOND + 1),
        lease("c", receive_count=SUSPECT_BEYOND + 1),
        lease("d", {"eta": eta}, receive_count=SUSPECT_BEYOND + 1, sent_at=90_000),
    )
    assert not waited.suspect
    assert killing.suspect
    assert long_there.suspect, "it was due at once, however long ago"
    assert redriven.suspect, "it was due when it was sent"


@pytest.mark.parametrize(
    ("header", "task"),
    [
        ({"nonsense": 1}, "strict"),
        (pipeline_header(), "note"),
        (pipeline_header(role="part"), "strict"),
        (pipeline_header(role="gather"), "strict"),
        (pipeline_header(job_id=""), "strict"),
        (pipeline_header(job_id="x" * 5_000), "strict"),
        (pipeline_header(part=part_of(0)), "strict"),
        (pipeline_header(role="part", part=part_of(0, split_id="x" * 5_000)), "strict"),
        (pipeline_header(role="part", part=part_of(2, total=2)), "strict"),
        (pipeline_header(role="part", part=part_of(10**30, total=10**31)), "strict"),
        (pipeline_header(stage="x" * 65), "x" * 65),
    ],
)
def test_a_header_that_is_not_its_tasks_is_refused(known: Table, header: Any, task: str) -> None:
    """Settlement would believe it, and record what never was."""
    (held,) = screened(known, staged("a", header, task, receive_count=2))
    assert held.problem
    assert held.header is None
    assert not known.asked


def test_while_the_table_is_away_the_screen_asks_again(known: Table) -> None:
    """And holds nothing when the worker stops meanwhile."""
    known.away = 2
    assert len(screened(known, staged("a", receive_count=2))) == 1
    known.away = 1_000
    stopping = Patience()
    stopping.end()
    assert screened(known, staged("a", receive_count=2), patience=stopping) == []


def test_what_the_table_refuses_of_one_message_holds_up_no_other(known: Table) -> None:
    """A refusal of what stands in it is that message's end, not the worker's: the others go on."""
    known.refused = {"bad"}
    known.done = {StageRef(job_id="j", stage="strict")}
    bad = staged("a", pipeline_header(job_id="bad"), receive_count=2)
    held, fine = screened(known, bad, staged("b", receive_count=2))
    assert "key too long" in (held.problem or "")
    assert held.header is None, "nor is its job told: it would be refused again"
    assert isinstance(fine.verdict, AlreadyDone)


def test_a_table_that_refuses_all_ends_the_worker(known: Table) -> None:
    """Denied or gone: nothing could be recorded, so the receiver gets the error that stops it."""
    denied = ServiceRefusedError("AccessDenied")
    with (
        patch.object(known, "already_done", side_effect=denied),
        pytest.raises(ServiceRefusedError, match="AccessDenied"),
    ):
        screened(known, staged("a", receive_count=2), staged("b", receive_count=2))
