"""Settlement, retry and look-up with fakes for the services: deletes, returns, dead letters."""

import math
import threading
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

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.errors import PermanentError, ServiceRefusedError, ServiceUnavailableError
from pipeline.jobs import DoneTasks, PastAttempts, Recorded, Ref, Verdict, ref_of
from pipeline.jobs.errors import table_error
from pipeline.patience import Patience
from pipeline.results.report import Report
from pipeline.sqs import QUEUE_RETENTION
from pipeline.transport.intake import Intake
from pipeline.transport.lease import LONGEST_HOLD, Lease
from pipeline.wire import identity
from pipeline.wire.marker import Marker
from pipeline.wire.taskmessage import HEADER, TaskHeader
from pipeline.worker.child.outcome import (
    AlreadyDone,
    Cancelled,
    Discarded,
    Failed,
    Marked,
    Outcome,
    Returned,
    Succeeded,
    failed,
)
from pipeline.worker.errbacks import publish_errbacks
from pipeline.worker.lookup import SUSPECT_BEYOND, Lookup
from pipeline.worker.settle import retry
from pipeline.worker.settle.completion import Completion
from pipeline.worker.settle.retry import LONGEST_BACKOFF, Retries
from pipeline.worker.settle.settlement import Settlement
from pipeline.worker.settle.work import Work
from tests.builders import lease, pipeline_header, settings, stage_lease
from tests.loglines import log_lines
from tests.processes import wait_until

#: The id of the task of ``stage_lease``.
STRICT = identity.task_id("s", "e", "strict", None)

SUCCESS = Succeeded(result=None, summary="", seconds=0)
REPORT = Report(state="S", text="{}", keep_seconds=None, kept=True)
SETTINGS = settings(max_retries=2, retry_delay=5)


def registry() -> Registry:
    made = Registry()

    @stage(consumes="a", retries=0, retry_delay=100, registry=made)
    def strict(data: int) -> None: ...

    return made


def part_of(ordinal: int, **changes: Any) -> dict[str, Any]:
    """The part in such a header."""
    split_id = TaskHeader.model_validate(pipeline_header()).split_id
    return {"split_id": split_id, "ordinal": ordinal, "total": 1} | changes


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

    def lane(self, *names: str, group: str = "g") -> list[Work]:
        """Return works of one group that ran well, one after the other."""
        leases = [lease(name) for name in names]
        for each in leases:
            each.message = replace(each.message, group_id=group)
        self.intake.hold(leases)
        for each in leases:
            assert self.intake.take() is each
            self.intake.finish(each.tag)
            self.intake.let_pass(each)
        return [Work(lease=each, outcome=SUCCESS) for each in leases]

    def _delete(self, leases: Sequence[Lease], *, hurry: bool = False) -> None:
        for each in self.intake.delete(leases):
            self.deleted.append(each.message_id)
            self.log.append("delete")

    def _give_back(self, lease: Lease, delay: float = 0) -> None:
        for each in self.intake.give_back(lease):
            self.returned[each.message_id] = delay if each is lease else 0


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

    def record(self, works: Sequence[Work]) -> Recorded:
        self.log.append("record")
        self.recorded += [work.lease.message_id for work in works]
        return Recorded(errors=[None] * len(works))


class Desk:
    """A settlement over fakes."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.effects = Effects(self.shelf.log)
        self.buried: list[str] = []
        #: the messages of strict stages
        self.strict: set[str] = set()
        self.reasons: list[str] = []
        self.on_bury: Callable[[Work], None] = lambda _: None
        self.attempts: dict[tuple[str, str], set[int]] = {}
        patience = Patience()
        give_back = self.shelf.disposal.give_back
        retries = Retries(
            SETTINGS,
            Registry(),
            give_back,
            cast(Any, self),
            patience,
            longest=LONGEST_HOLD,
            on_retry=self._keep_failure,
        )
        self.settlement = Settlement(
            cast(Any, self.shelf),
            Completion(
                cast(Any, self.effects),
                cast(Any, self.effects),
                cast(Any, SimpleNamespace(close=lambda *_: self.shelf.log.append("close"))),
            ),
            retries,
            cast(Any, SimpleNamespace(dead_letter=self._bury)),
            cast(Any, SimpleNamespace(record=lambda works: [None] * len(works), fail_work=lambda _: None)),
            cast(Any, SimpleNamespace(record=self._keep_results, fail=self._keep_failure)),
            patience,
            on_dead_letter=publish_errbacks,
            record_markers=lambda markers: self.shelf.log.append(f"markers {[m.job_id for m in markers]}"),
            is_strict=lambda lease: lease.message_id in self.strict,
        )

    def settle(self, *works: Work) -> None:
        self.settlement._settle_batch(works)

    def add(self, task_id: str, message_id: str, receive_count: int, verdict: Verdict | None = None) -> int:
        if verdict is not None:
            self.shelf.log.append(f"verdict {verdict.error}: {verdict.message}")
        counts = self.attempts.setdefault((task_id, message_id), set())
        counts.add(receive_count)
        return len(counts)

    def _keep_results(self, works: Sequence[Work]) -> list[Exception | None]:
        if any(isinstance(work.outcome, Succeeded | Discarded) and work.outcome.report for work in works):
            self.shelf.log.append("result")
        return [None] * len(works)

    def _keep_failure(self, work: Work) -> None:
        if isinstance(work.outcome, Failed) and work.outcome.report:
            self.shelf.log.append("result")

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


@pytest.mark.parametrize(
    ("outcome", "steps"),
    [
        (replace(SUCCESS, report=REPORT), ["emit", "record", "close", "result", "delete"]),
        (Discarded(reason="expired", report=REPORT), ["result", "delete"]),
        (Failed(error="E", message="no", permanent=True, report=REPORT), ["bury", "result", "delete"]),
        (Failed(error="E", message="no", report=REPORT), ["result", "back"]),
    ],
)
def test_a_result_is_kept_before_its_message_is_gone(desk: Desk, outcome: Outcome, steps: list[str]) -> None:
    """After everything else: it is what makes a plain task done, and it must not be seen too early."""
    desk.settle(desk.shelf.work("a", outcome))
    assert desk.shelf.log + ["back"] * len(desk.shelf.returned) == steps


def test_a_marker_is_recorded_when_all_before_it_are_and_then_deleted(desk: Desk) -> None:
    """It says that what was before it in its group is gone."""
    works = desk.shelf.lane("a", "b", "c")
    works[2].outcome = Marked(marker=Marker.new("j"))
    desk.settle(*works)
    assert desk.shelf.log == ["emit", "record", "close", "delete", "delete", "markers ['j']", "delete"]


def test_a_marker_behind_one_that_goes_back_goes_back(desk: Desk) -> None:
    """It says nothing: what is before it comes again."""
    works = desk.shelf.lane("a", "b")
    works[0].outcome, works[1].outcome = Returned(), Marked(marker=Marker.new("j"))
    desk.settle(*works)
    assert (desk.shelf.log, set(desk.shelf.returned)) == ([], {"a", "b"})


def test_a_marker_whose_lane_went_back_while_it_was_settled_goes_back(desk: Desk) -> None:
    """The one before it was recorded by a batch that broke."""
    (before,), marker = desk.shelf.lane("a"), desk.shelf.work("m", Marked(marker=Marker.new("j")))
    desk.effects.on_emit = lambda _: setattr(marker.lease, "void", True)
    desk.settle(before, marker)
    assert not [line for line in desk.shelf.log if line.startswith("markers")]
    assert "m" in desk.shelf.returned


def test_a_dead_letter_is_buried_before_it_is_deleted(desk: Desk) -> None:
    """A crash between the two repeats the burial."""
    desk.settle(desk.shelf.work("a", failed(PermanentError())))
    assert desk.shelf.log == ["bury", "delete"]


def test_a_verdict_is_recorded_before_its_dead_letter_is_written(desk: Desk) -> None:
    """The dead-letter queue may refuse for hours: the redelivery must know that it runs no code again."""
    work = desk.shelf.work("a", failed(PermanentError("no such order")))
    work.lease.run_until = 1.0
    desk.settle(work)
    assert desk.shelf.log == ["verdict pipeline.errors.PermanentError: no such order", "bury", "delete"]
    too_late = desk.shelf.work("b", Failed(error="E", message="no", delay=60), age=retry.LONGEST_LIFE)
    desk.settle(too_late)
    assert f"verdict E: no ({retry.DROPPED})" in desk.shelf.log


def test_the_next_of_a_strict_group_starts_once_the_one_before_is_recorded(desk: Desk) -> None:
    """Not before, and not only when it is deleted."""
    shelf = desk.shelf
    first, second = _first_of_two(desk)
    assert shelf.intake.take() is None
    desk.settle(Work(lease=first, outcome=SUCCESS))
    assert shelf.intake.is_held(first)
    assert shelf.intake.take() is second


@pytest.fixture
def held(desk: Desk) -> Iterator[threading.Event]:
    """An event until which nothing is emitted."""
    go_on = threading.Event()
    desk.effects.on_emit = lambda _: None if go_on.wait(10) else AssertionError("held for ever")
    yield go_on
    go_on.set()


def _first_of_two(desk: Desk, **about: Any) -> tuple[Lease, Lease]:
    """Hold two of a group; return both, the first one finished."""
    first, second = lease("a", sent_at=time.time()), lease("b")
    second.message = replace(second.message, group_id="a")
    desk.shelf.intake.hold([first, second])
    for name, value in about.items():
        setattr(first, name, value)
    assert desk.shelf.intake.take() is first
    desk.shelf.intake.finish(first.tag)
    return first, second


def test_the_next_of_a_group_starts_when_the_one_before_ran_well(desk: Desk, held: threading.Event) -> None:
    """Though nothing of it is emitted yet."""
    first, second = _first_of_two(desk)
    desk.settlement.submit(Work(lease=first, outcome=SUCCESS))
    assert desk.shelf.intake.take() is second
    assert not desk.effects.emitted


@pytest.mark.parametrize("why", ["strict", "suspect", "split", "failed", "void"])
def test_the_next_of_a_group_waits(desk: Desk, held: threading.Event, why: str) -> None:
    """For a strict stage; behind one that may end the process, sends parts, failed, or does not count."""
    first, second = _first_of_two(desk, suspect=why == "suspect", void=why == "void")
    if why == "strict":
        desk.strict.add("a")
    if why == "split":
        first.header = TaskHeader(**pipeline_header(role="split"))
    work = Work(lease=first, outcome=failed(ValueError()) if why == "failed" else SUCCESS)
    desk.settlement.submit(work)
    assert desk.shelf.intake.take() is None
    held.set()
    if why in ("failed", "void"):
        wait_until(lambda: "a" in desk.shelf.returned, "it goes back")
        assert list(desk.shelf.returned) == ["b", "a"], "with the one behind it"
    else:
        wait_until(lambda: desk.shelf.intake.take() is second, "it starts")


def test_a_lane_is_settled_in_its_order_whatever_the_threads(desk: Desk) -> None:
    """In one batch at a time: Kafka may fail one record and take the next."""
    under_way: set[str] = set()

    def emit(work: Work) -> None:
        group = work.lease.message.group_id
        assert group not in under_way
        under_way.add(group)
        time.sleep(0.001)
        under_way.remove(group)

    desk.effects.on_emit = emit
    lanes = [desk.shelf.lane(*[f"{lane}{at}" for at in range(30)], group=lane) for lane in "abcde"]
    for works in zip(*lanes, strict=True):
        for work in works:
            desk.settlement.submit(work)
    wait_until(lambda: len(desk.shelf.deleted) == 150, "all are settled")
    for works_of_lane in lanes:
        ids = [work.lease.message_id for work in works_of_lane]
        assert [each for each in desk.effects.emitted if each in ids] == ids
        assert [each for each in desk.effects.recorded if each in ids] == ids


def test_behind_one_that_cannot_be_emitted_its_lane_waits_for_its_dead_letter(desk: Desk) -> None:
    """A crash before would run it again, after those behind it."""
    refusal = ServiceRefusedError("too large")
    desk.effects.on_emit = lambda work: refusal if work.lease.message_id == "b" else None
    works = [*desk.shelf.lane("a", "b", "c"), *desk.shelf.lane("x", group="other")]
    desk.settle(*works)
    assert desk.shelf.log == [
        *("emit", "record", "close", "delete", "delete"),
        *("bury", "delete"),
        *("emit", "record", "close", "delete"),
    ]
    assert desk.effects.recorded == ["a", "x", "c"]
    assert desk.shelf.deleted == ["a", "x", "b", "c"]


def test_a_failure_behind_one_that_cannot_be_emitted_ends_after_it(desk: Desk) -> None:
    """The dead letters of a lane keep its order."""
    desk.effects.on_emit = lambda work: ServiceRefusedError("no") if work.lease.message_id == "a" else None
    works = desk.shelf.lane("a", "b", "c")
    works[-1].outcome = failed(PermanentError())
    desk.settle(*works)
    assert desk.buried == ["a", "c"]
    assert desk.shelf.deleted == ["a", "b", "c"]


def test_what_ran_behind_one_that_breaks_settlement_runs_again(desk: Desk) -> None:
    """Nothing of it is recorded or deleted: it comes again behind the one that broke."""

    def emit(work: Work) -> None:
        if work.lease.message_id == "b":
            raise KeyError("a defect of ours")

    desk.effects.on_emit = emit
    desk.settle(*desk.shelf.lane("a", "b", "c"))
    assert desk.effects.recorded == ["a"]
    assert desk.shelf.deleted == ["a"]
    assert desk.shelf.returned == {"c": 0, "b": SETTINGS.retry_delay}


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
        desk.shelf.intake.forget([work.lease])
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


# ─── Lookup ───

KEY_TOO_LONG = ClientError(
    {"Error": {"Code": "ValidationException", "Message": "key too long"}}, "BatchGetItem"
)


class Table:
    """A job store that knows what a test says."""

    def __init__(self) -> None:
        self.resumption, self.attempts, self.results = self, self, self
        #: messages whose own success is recorded as their task's result
        self.ended: set[tuple[str, str]] = set()
        self.done: set[Any] = set()
        self.finished_at: dict[Any, float] = {}
        self.failures: dict[tuple[str, str], int] = {}
        self.verdicts: dict[tuple[str, str], Verdict] = {}
        self.asked: list[str] = []
        self.counted: list[tuple[str, str]] = []
        self.away = 0
        #: jobs whose keys it refuses, and with them whatever is asked for together
        self.refused: set[str] = set()

    def already_done(self, refs: Any) -> DoneTasks:
        if self.refused & {ref.job_id for ref in refs}:
            raise table_error(KEY_TOO_LONG, "read 2 items in table jobs")
        if self.away:
            self.away -= 1
            raise ServiceUnavailableError("away")
        self.asked += [ref.stage for ref in refs]
        return DoneTasks(refs=frozenset(self.done), finished_at=self.finished_at)

    def look_up(self, messages: Any) -> dict[tuple[str, str], PastAttempts]:
        self.counted += messages
        return {
            each: PastAttempts(count=self.failures.get(each, 0), verdict=self.verdicts.get(each))
            for each in messages
        }

    def ended_by(self, messages: Any) -> set[tuple[str, str]]:
        self.asked.append("results")
        return self.ended & set(messages)


@pytest.fixture
def known() -> Table:
    return Table()


def screened(known: Table, *leases: Lease, patience: Patience | None = None) -> Sequence[Lease]:
    return Lookup(SETTINGS, registry(), cast(Any, known), patience or Patience())(leases)


def test_a_first_delivery_in_time_is_not_looked_up(known: Table) -> None:
    """It costs nothing."""
    (held,) = screened(known, stage_lease("a", sent_at=1_100))
    assert held.header is not None
    assert held.verdict is None
    assert not known.asked


@pytest.mark.parametrize("about", [{"receive_count": 2}, {"sent_at": 1_300.0}])
def test_what_may_have_run_is_looked_up(known: Table, about: dict[str, Any]) -> None:
    """Delivered before, or sent so late that SQS may have forgotten the first."""
    known.done = {ref_of(TaskHeader.model_validate(pipeline_header()))}
    (held,) = screened(known, stage_lease("a", **about))
    assert isinstance(held.verdict, AlreadyDone)


def test_a_plain_task_whose_result_is_recorded_is_not_run_again(known: Table) -> None:
    """By this message: another one of the same task, its own retry, runs. Its attempts are not asked for."""
    known.ended = {("t-a", "a"), ("t-b", "another")}
    kept = {"ignore_result": False}
    done, other = screened(
        known, lease("a", kept, receive_count=2, sent_at=1_300), lease("b", kept, receive_count=2)
    )
    assert isinstance(done.verdict, AlreadyDone)
    assert other.verdict is None
    assert known.counted == [("t-b", "b")]


def test_a_redelivered_task_without_a_result_costs_what_it_did(known: Table) -> None:
    """One read, of its attempts; so does the first delivery of one with a result: none."""
    screened(known, lease("a", receive_count=2), lease("b", {"ignore_result": False}))
    assert known.asked == []
    assert known.counted == [("t-a", "a")]


def test_what_comes_for_the_first_time_has_no_attempts(known: Table) -> None:
    """Of a job that runs for hours nearly every task is late: only whether it is done is looked up."""
    screened(known, stage_lease("a", sent_at=1_300), stage_lease("b", sent_at=1_300, receive_count=2))
    assert known.asked == ["strict", "strict"]
    assert known.counted == [(STRICT, "b")]


def test_attempts_used_up_are_not_run_again(known: Table) -> None:
    """By the stage's own number of retries."""
    known.failures = {(STRICT, "a"): 1, ("t-b", "b"): 1}
    strict, plain = screened(known, stage_lease("a", receive_count=2), lease("b", receive_count=2))
    assert isinstance(strict.verdict, Failed)
    assert strict.verdict.permanent
    assert plain.verdict is None
    assert plain.attempts == 1


def test_a_recorded_verdict_is_not_run_again(known: Table) -> None:
    """Its dead letter could not be written: the redelivery goes on with it, and tells the first reason."""
    known.verdicts = {(STRICT, "a"): Verdict(error="E", message="never", traceback="tb")}
    (judged,) = screened(known, stage_lease("a", receive_count=2))
    assert judged.verdict == Failed(error="E", message="never", traceback="tb", permanent=True)


def test_an_event_of_a_stage_that_another_event_did_is_run(known: Table) -> None:
    """Done belongs to a task: a stream processor may have made several events of one, headers kept."""
    other = TaskHeader.model_validate(pipeline_header(event_id="another"))
    known.done = {ref_of(other)}
    (held,) = screened(known, stage_lease("a", sent_at=1_300))
    assert held.verdict is None


def _redelivered(*names: str, receive_count: int = 2) -> list[Lease]:
    """Return tasks of one entity, received again together."""
    leases = [
        stage_lease(name, pipeline_header(event_id=name), receive_count=receive_count, sent_at=2_000)
        for name in names
    ]
    for each in leases:
        each.message = replace(each.message, group_id="g")
    return leases


def _ref(lease: Lease) -> Ref:
    assert lease.header is not None
    return ref_of(lease.header)


@pytest.mark.parametrize("finished_at", [{}, {"b": 2_500.0}], ids=["unknown", "by this message"])
def test_a_done_task_runs_again_behind_one_that_does(known: Table, finished_at: dict[str, float]) -> None:
    """A crash left only the later one recorded: skipped, the earlier one would have the last word."""
    first, second, third = leases = _redelivered("a", "b", "c")
    known.done = {_ref(second)}
    known.finished_at = {_ref(second): at for at in finished_at.values()}
    screened(known, *leases)
    assert [lease.verdict for lease in (first, second, third)] == [None, None, None]


def test_a_done_task_in_front_is_skipped(known: Table) -> None:
    """Those before it are deleted: nothing runs again that it could stay behind."""
    first, second = leases = _redelivered("a", "b")
    known.done = {_ref(first)}
    screened(known, *leases)
    assert isinstance(first.verdict, AlreadyDone)
    assert second.verdict is None


def test_a_late_copy_of_a_done_task_is_skipped_behind_one_that_runs_again(known: Table) -> None:
    """It was done by another message before this one was sent."""
    first, second = leases = _redelivered("a", "b")
    known.done = {_ref(second)}
    known.finished_at = {_ref(second): 1_500.0}
    screened(known, *leases)
    assert first.verdict is None
    assert isinstance(second.verdict, AlreadyDone)


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
    (held,) = screened(known, stage_lease("a", header, task, receive_count=2))
    assert held.problem
    assert held.header is None
    assert not known.asked


def test_a_header_under_another_id_is_refused(known: Table) -> None:
    """A task's id follows from its header: a message that names another task's job ends no task of it."""
    (held,) = screened(known, lease("a", {"task": "strict", HEADER: pipeline_header()}, receive_count=2))
    assert "t-a" in (held.problem or "")
    assert held.header is None
    assert not known.asked


def test_while_the_table_is_away_the_screen_asks_again(known: Table) -> None:
    """And holds nothing when the worker stops meanwhile."""
    known.away = 2
    assert len(screened(known, stage_lease("a", receive_count=2))) == 1
    known.away = 1_000
    stopping = Patience()
    stopping.end()
    assert screened(known, stage_lease("a", receive_count=2), patience=stopping) == []


def test_what_the_table_refuses_of_one_message_holds_up_no_other(known: Table) -> None:
    """A refusal of what stands in it is that message's end, not the worker's: the others go on."""
    known.refused = {"bad"}
    known.done = {ref_of(TaskHeader.model_validate(pipeline_header()))}
    bad = stage_lease("a", pipeline_header(job_id="bad"), receive_count=2)
    held, fine = screened(known, bad, stage_lease("b", receive_count=2))
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
        screened(known, stage_lease("a", receive_count=2), stage_lease("b", receive_count=2))
