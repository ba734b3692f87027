"""The real worker on real queues: however a task ends, its effects, its record and its message are right."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from celery import chain
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.jobs import JobState
from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.integration import workshop, workshop_limits
from tests.integration.shop import Shop, open_shop
from tests.integration.workshop import Batch, Order
from tests.processes import PATIENCE

#: How long the worker leaves a task that it does not know to others.
UNKNOWN_TASK_SECONDS = 8


@pytest.fixture(scope="module")
def shop(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop with one worker of two children that all tests of this module share."""
    with open_shop(
        embedded_services,
        make_environment,
        tmp_path_factory.mktemp("shop"),
        UNKNOWN_TASK_SECONDS=str(UNKNOWN_TASK_SECONDS),
    ) as shop:
        worker = shop.start()
        yield shop
        assert worker.poll() is None, "something ended the worker:\n" + shop.log()[-8000:]
        assert shop.stop(worker) == 0


# ─── Cancelling ───


def cancel(shop: Shop, *job_ids: str) -> Result:
    """``pipeline jobs cancel --yes --json``, as a person types it."""
    return CliRunner().invoke(main, ["jobs", "cancel", "--yes", "--json", *job_ids], env=shop.environment)


def test_what_has_not_started_of_a_cancelled_job_never_runs(shop: Shop) -> None:
    """A split in the middle: what runs is recorded, the rest is skipped and counted, no gather, one event."""
    job_id = shop.submit(workshop.pack, Batch(key="cancelled", parts=8, do="hold"))
    shop.wait(lambda: any(line["key"].startswith("cancelled/") for line in shop.all_lines()), "a part runs")
    result = cancel(shop, job_id)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["state"] == "cancelled"
    shop.wait_cancelled(job_id)
    shop.let_go(*(f"cancelled/{number}" for number in range(8)))
    shop.wait_empty()
    started = [line for line in shop.all_lines() if line["key"].startswith("cancelled/")]
    ran = sum(line["what"] == "start" for line in started)
    assert 0 < ran < 8
    assert sum(line["what"] == "end" for line in started) == ran
    assert not shop.lines("cancelled", "gather")
    progress = shop.store.listing.progress(job_id)
    assert progress
    (pack,) = [stage for stage in progress[1] if stage.stage == "pack"]
    assert (progress[0].state, pack.done, pack.cancelled) == (JobState.CANCELLED, ran, 8 - ran)
    page = shop.store.parts.page(job_id, "pack")
    assert page
    assert sorted({part.state for part in page.parts}) == ["cancelled", "done"]
    assert all(part.attempts == 1 and part.run_seconds for part in page.parts if part.state == "done")
    assert cancel(shop, job_id).exit_code == 0, "it may be said again"
    ids = {
        dict(message.headers)["ce_id"]
        for message, data in shop.events("jobs")
        if data["job_id"] == job_id and dict(message.headers)["ce_type"] == b"job-cancelled"
    }
    assert len(ids) == 1
    assert not [data for _, data in shop.events("errors") if data["job_id"] == job_id]
    assert "task.cancelled" in shop.log()


def test_those_behind_a_cancelled_job_in_its_group_go_on(shop: Shop) -> None:
    """The order of an entity's tasks holds, and a skipped one holds up none."""
    first, second, third = shop.submit_many(
        workshop.visit,
        [
            Order(key="cancel-1", do="hold"),
            Order(key="cancel-2"),
            Order(key="cancel-3"),
        ],
        entity="cancelled-entity",
    )
    shop.wait_line("cancel-1", "start")
    assert cancel(shop, second).exit_code == 0
    shop.wait_cancelled(second)
    shop.let_go("cancel-1")
    shop.wait_job(third)
    shop.wait_job(first)  # both may be marked as complete by one settlement, in any order
    assert shop.lines("cancel-2") == []
    late = cancel(shop, first)
    assert (late.exit_code, json.loads(late.stdout)["state"]) == (1, "complete")


# ─── Stages ───


def test_a_task_emits_is_recorded_and_deleted(shop: Shop) -> None:
    """One event on the next topic with the job's id, the job complete, nothing left in the queue."""
    job_id = shop.submit(workshop.make, Order(key="plain"))
    shop.wait_job(job_id)
    ((message, data),) = [each for each in shop.events("made") if each[1]["key"] == "plain"]
    assert data == {"key": "plain", "total": 0, "filling": ""}
    assert dict(message.headers)["ce_jobid"] == job_id.encode()
    assert [d for _, d in shop.events("jobs") if d["job_id"] == job_id]
    shop.wait_empty()
    assert [line["what"] for line in shop.lines("plain")] == ["start", "end"]


def test_a_stage_that_returns_none_ends_its_path(shop: Shop) -> None:
    """No event, and the job is complete all the same."""
    job_id = shop.submit(workshop.make, Order(key="ends", do="nothing"))
    shop.wait_job(job_id)
    assert not [data for _, data in shop.events("made") if data["key"] == "ends"]


def test_data_that_looks_like_kombus_own_types_arrives_as_it_is(shop: Shop) -> None:
    """kombu's decoder would refuse it, and the event would be a dead letter."""
    key = '{"__type__": "datetime", "__value__": "never"}'
    shop.submit(workshop.make, Order(key=key))
    job = shop.submit(workshop.pack, Batch(key="typed", parts=1))
    shop.wait_line(key, "end")
    shop.wait_job(job)


@pytest.mark.parametrize("do", ["fail", "exit", "memory", "interrupt", "kill", "odd", "ignore"])
def test_a_run_that_goes_wrong_is_tried_again(shop: Shop, do: str) -> None:
    """Any exception and any end of its process is one attempt, and the next run knows its number."""
    job_id = shop.submit(workshop.make, Order(key=f"wrong-{do}", do=do, times=1))
    shop.wait_job(job_id)
    assert [line["attempt"] for line in shop.lines(f"wrong-{do}", "start")] == [1, 2]


@pytest.mark.parametrize("do", ["retry", "celery-retry"])
def test_a_task_may_say_when_it_is_tried_again(shop: Shop, do: str) -> None:
    """``Retry(delay)``, and Celery's own ``retry(countdown=)``: the same message after that time."""
    job_id = shop.submit(workshop.make, Order(key=f"later-{do}", do=do, times=1, seconds=2.0))
    shop.wait_job(job_id)
    first, second = shop.lines(f"later-{do}", "start")
    assert second["at"] - first["at"] >= 1.9
    assert second["attempt"] == 2


@pytest.mark.parametrize(
    ("do", "error"),
    [
        ("fail", "builtins.ValueError"),
        ("kill", "billiard.exceptions.WorkerLostError"),
        ("odd", "tests.integration.workshop.OddError"),
        ("strange-text", "builtins.ValueError"),
    ],
)
def test_attempts_used_up_end_in_a_dead_letter(shop: Shop, do: str, error: str) -> None:
    """After the last attempt: an error event, a dead letter with its reason, a failed job."""
    job_id = shop.submit(workshop.make, Order(key=f"used-up-{do}", do=do))
    job = shop.wait_job(job_id, JobState.FAILED)
    assert job.failed == {"make"}
    assert len(shop.lines(f"used-up-{do}", "start")) == 3
    letter = shop.wait_letter(job_id)
    assert letter.attributes["error"] == error
    assert letter.attributes["attempts"] == "3"
    # A job is failed before the topic is told so; its message is deleted after both.
    shop.wait_empty()
    kinds = [data["kind"] for _, data in shop.events("errors") if data["job_id"] == job_id]
    assert sorted(kinds) == ["job", "task"]


def test_a_permanent_error_is_not_tried_again(shop: Shop) -> None:
    """One run, then the dead letter."""
    job_id = shop.submit(workshop.make, Order(key="permanent", do="permanent"))
    shop.wait_job(job_id, JobState.FAILED)
    assert len(shop.lines("permanent", "start")) == 1
    letter = shop.wait_letter(job_id).attributes
    assert (letter["error"], letter["attempts"]) == ("pipeline.errors.PermanentError", "1")


def test_a_stage_may_have_no_retry(shop: Shop) -> None:
    """``retries=0``: the first failure is the last."""
    job_id = shop.submit(workshop.once, Order(key="once", do="fail"))
    shop.wait_job(job_id, JobState.FAILED)
    assert len(shop.lines("once", "start")) == 1


def test_data_that_does_not_fit_is_a_dead_letter_at_once(shop: Shop) -> None:
    """The annotation refuses it, and no attempt is made of it."""
    job_id = shop.submit(workshop.make, Batch(key="unfit", parts=1, do="succeed"))
    shop.submit(workshop.make, Order(key="fit"))
    shop.wait_job(job_id)  # Order takes what it knows of a Batch
    wrong = shop.submit(workshop.pack, Order(key="unfit"))
    shop.wait_job(wrong, JobState.FAILED)
    assert shop.wait_letter(wrong).attributes["error"] == "pipeline.errors.InvalidInputError"


def test_the_hard_limit_ends_a_run_and_is_an_attempt(shop: Shop) -> None:
    """Code that does not listen to the soft limit is killed, each time, and given up on."""
    job_id = shop.submit(workshop_limits.slow, Order(key="slow", do="sleep", seconds=20))
    shop.wait_job(job_id, JobState.FAILED)
    assert shop.wait_letter(job_id).attributes["error"] == "billiard.exceptions.TimeLimitExceeded"
    starts = shop.lines("slow", "start")
    assert {line["attempt"] for line in starts} == {1, 2}
    assert not shop.lines("slow", "end")


def test_a_killed_plain_task_calls_its_hooks_and_is_logged_by_name(shop: Shop) -> None:
    """on_failure, after_return and task_failure at each run, and lines with name, id and duration."""
    task_id = shop.delay("hard", "killed")
    shop.wait_letter(task_id)
    for what in ("on_failure", "after_return", "task_failure"):
        lines = shop.wait_line("killed", what, 3)
        assert len(lines) == 3
        assert {line.get("error", "TimeLimitExceeded") for line in lines} == {"TimeLimitExceeded"}
    # The last line is written once the dead letter is sent, and before the message is deleted.
    shop.wait_empty()
    entries = [json.loads(line) for line in shop.log().splitlines() if line.startswith("{")]
    ours = [entry for entry in entries if entry.get("task_id") == task_id]
    assert {entry["event"] for entry in ours} >= {"sleeps", "task.retry", "task.dead_letter"}
    assert {entry["task"] for entry in ours} == {"tests.integration.workshop.hard"}
    assert all(entry["duration_ms"] >= 1_000 for entry in ours if entry["event"] == "task.retry")


def test_the_soft_limit_is_raised_in_the_task(shop: Shop) -> None:
    """It may clean up; what it lets through is a failure."""
    task_id = shop.delay("soft", "soft")
    shop.wait_line("soft", "soft", 3)
    assert "SoftTimeLimitExceeded" in shop.wait_letter(task_id).attributes["error"]


# ─── Long, many, in order ───


def test_a_task_longer_than_its_lease_runs_once(shop: Shop) -> None:
    """Three times the visibility timeout, extended all along."""
    job_id = shop.submit(workshop.make, Order(key="long", do="sleep", seconds=12))
    shop.wait_job(job_id)
    assert [line["what"] for line in shop.lines("long")] == ["start", "end"]


def test_an_entitys_tasks_run_in_order_also_when_one_fails(shop: Shop) -> None:
    """Nothing behind a failing head starts before it is given up on; nobody else's attempts are used."""
    orders = [Order(key=f"visit-{n}") for n in range(6)]
    orders[2] = Order(key="visit-2", do="fail")
    # Received with the failing one each time; what it fails itself is its first attempt all the same.
    orders[3] = Order(key="visit-3", do="fail", times=1)
    job_ids = shop.submit_many(workshop.visit, orders, entity="patient")
    for number, job_id in enumerate(job_ids):
        shop.wait_job(job_id, JobState.FAILED if number == 2 else JobState.COMPLETE)
    seen = [line["key"] for line in shop.all_lines() if line["key"].startswith("visit-")]
    starts = [line for line in shop.all_lines() if line["key"].startswith("visit-")]
    assert list(dict.fromkeys(seen)) == [f"visit-{n}" for n in range(6)]
    assert seen == sorted(seen), "never back to an earlier one"
    assert {x["attempt"] for x in starts if x["key"] not in ("visit-2", "visit-3")} == {1}


def test_entities_do_not_wait_for_each_other(shop: Shop) -> None:
    """While one entity's task runs, another entity's run."""
    shop.submit_many(
        workshop.visit, [Order(key="deep", do="hold"), *[Order(key="behind")] * 9], entity="deep"
    )
    shop.wait_line("deep", "start")
    job_id = shop.submit(workshop.visit, Order(key="other"), entity="other")
    shop.wait_job(job_id)
    assert not shop.lines("behind")
    shop.let_go("deep")
    shop.wait_line("behind", "end", 9)


def test_a_split_of_hundreds_of_parts_is_gathered_once(shop: Shop) -> None:
    """Every part runs, the gather sees them all, and the job is complete with one event."""
    job_id = shop.submit(workshop.pack, Batch(key="batch", parts=600))
    shop.wait_job(job_id, timeout=120)
    assert [line["total"] for line in shop.lines("batch", "gather")] == [600]
    ran = [x["key"] for x in shop.all_lines() if x["key"].startswith("batch/") and x["what"] == "end"]
    assert sorted(set(ran)) == sorted(f"batch/{n}" for n in range(600))
    assert [data["total"] for _, data in shop.events("packed") if data["key"] == "batch"] == [600]


def test_a_split_of_nothing_goes_to_its_gather(shop: Shop) -> None:
    """Zero parts are all done at once."""
    shop.wait_job(shop.submit(workshop.pack, Batch(key="nothing", parts=0)))
    assert [line["total"] for line in shop.lines("nothing", "gather")] == [0]


def test_a_part_that_fails_fails_the_job_and_the_rest_goes_on(shop: Shop) -> None:
    """No gather, a dead letter for each failed part."""
    job_id = shop.submit(workshop.pack, Batch(key="bad", parts=3, do="permanent"))
    shop.wait_job(job_id, JobState.FAILED)
    assert len([x for x in shop.all_lines() if x["key"].startswith("bad/")]) == 3
    assert not shop.lines("bad", "gather")


def test_a_result_too_large_to_store_is_permanent_and_names_the_limit(shop: Shop) -> None:
    """Another attempt would give the same result."""
    job_id = shop.submit(workshop.pack, Batch(key="huge", parts=1, size=500_000))
    shop.wait_job(job_id, JobState.FAILED)
    letter = shop.wait_letter(f'{job_id}","stage":"pack","role":"part')
    assert letter.attributes["error"] == "pipeline.errors.ResultTooLargeError"
    assert len(shop.lines("huge/0", "start")) == 1


def test_a_late_replay_of_a_done_task_runs_no_code(shop: Shop) -> None:
    """SQS forgets deduplication ids after minutes; the record does not."""
    job_id = shop.submit(workshop.once, Order(key="replayed"), late=600)
    shop.wait_job(job_id)
    shop.wait_empty()
    shop.send_again(job_id)
    shop.wait_empty()
    assert len(shop.lines("replayed", "start")) == 1


# ─── Plain Celery tasks ───


def test_delay_runs_once(shop: Shop) -> None:
    """A plain task: run, deleted."""
    shop.delay("note", "plain-note", 1, {"größer": "漢字 🦊"})
    (line,) = shop.wait_line("plain-note", "note")
    assert line["args"] == [1, {"größer": "漢字 🦊"}]
    shop.wait_empty()


def test_a_countdown_longer_than_the_lease_is_kept(shop: Shop) -> None:
    """Parked in the queue until it is due; run once, and not early."""
    due = time.time() + 7
    shop.delay("note", "countdown", countdown=7)
    (line,) = shop.wait_line("countdown", "note")
    assert due - 0.5 <= line["at"] <= due + 20
    shop.wait_empty()
    assert len(shop.lines("countdown", "note")) == 1


def test_celerys_own_retry_is_not_deduplicated_away(shop: Shop) -> None:
    """``self.retry`` publishes the same task id again; each is run."""
    shop.delay("again", "again", 2)
    lines = shop.wait_line("again", "note", 3)
    assert [line["retries"] for line in lines] == [0, 1, 2]
    shop.wait_empty()


def test_after_celerys_own_retries_there_are_none_of_ours(shop: Shop) -> None:
    """``max_retries=5``: six runs, then the dead letter."""
    task_id = shop.delay("again", "in-vain", 1_000)
    assert shop.wait_letter(task_id).attributes["error"] == "celery.exceptions.MaxRetriesExceededError"
    assert [line["retries"] for line in shop.lines("in-vain", "note")] == [0, 1, 2, 3, 4, 5]


def test_chain_and_link_run_after_their_task(shop: Shop) -> None:
    """The next task of a chain is published when its task succeeded."""
    chain(shop.signature("note", "chain-1"), shop.signature("note", "chain-2")).apply_async()
    shop.delay("note", "linked-1", link=shop.signature("note", "linked-2"))
    assert [x["args"] for x in shop.wait_line("chain-1", "note", 2)] == [[], ["chain-2"]]
    assert [x["args"] for x in shop.wait_line("linked-1", "note", 2)] == [[], ["linked-2"]]
    shop.wait_empty()


@pytest.mark.parametrize(
    ("do", "runs", "error"),
    [
        ("fail", 3, "ValueError: as asked"),
        ("permanent", 1, "PermanentError: as asked"),
        ("kill", 3, "WorkerLostError: Worker exited prematurely: signal 9 (SIGKILL)"),
    ],
)
def test_errbacks_are_called_when_a_task_is_given_up_on(shop: Shop, do: str, runs: int, error: str) -> None:
    """Once, and not at each attempt, also where the child that ran it is dead."""
    key = f"errback-{do}"
    task_id = shop.delay(
        "do",
        {"key": key, "do": do},
        link_error=[shop.signature("failed", key), shop.app.signature(f"{workshop.__name__}.looked_at")],
    )
    (published,) = shop.wait_line(key, "errback")
    (called,) = shop.wait_line(key, "called")
    assert (published["task_id"], called["task_id"]) == (task_id, task_id)
    assert called["error"].startswith(error)
    shop.wait_empty()
    assert [line["what"] for line in shop.lines(key)].count("start") == runs
    assert sorted(line["what"] for line in shop.lines(key))[:2] == ["called", "errback"]


def test_a_message_group_keeps_plain_tasks_in_order(shop: Shop) -> None:
    """The header names the group; what a chain publishes stays in it."""
    for number in range(8):
        shop.delay("note", "grouped", number, headers={"message_group": "of-mine"})
    lines = shop.wait_line("grouped", "note", 8)
    assert [line["args"] for line in lines] == [[number] for number in range(8)]


def test_an_expired_task_is_not_run(shop: Shop) -> None:
    """It is deleted: nobody wants it any more."""
    shop.delay("note", "expired", expires=datetime.now(UTC) - timedelta(seconds=5))
    shop.wait_empty()
    assert not shop.lines("expired")


def test_a_revoked_task_is_not_run(shop: Shop) -> None:
    """Revoked while it waits for its time: deleted when it comes again."""
    # A worker with both children busy receives nothing, however late the revoke reaches it.
    busy = ("before-revoked-1", "before-revoked-2")
    for key in busy:
        shop.submit(workshop.make, Order(key=key, do="hold"))
        shop.wait_line(key, "start")
    task_id = shop.delay("note", "revoked", countdown=4)
    (answer,) = shop.app.control.revoke(task_id, reply=True, destination=["w0@test"], timeout=PATIENCE)
    assert "ok" in answer["w0@test"]
    shop.let_go(*busy)
    shop.wait_empty()
    assert not shop.lines("revoked")


@pytest.mark.parametrize(("name", "do_what"), [("do", "kill"), ("based", "fail"), ("based", "memory")])
def test_a_plain_task_that_fails_is_tried_again_and_given_up_on(shop: Shop, name: str, do_what: str) -> None:
    """As a stage's: attempts by record, then the dead letter; also a task with a base of its own."""
    key = f"plain-{name}-{do_what}"
    task_id = shop.delay(name, {"key": key, "do": do_what})
    letter = shop.wait_letter(task_id)
    assert letter.attributes["attempts"] == "3"
    assert len(shop.lines(key, "start")) == 3


def test_a_group_that_others_publish_is_a_dead_letter(shop: Shop) -> None:
    """Celery's own task for it would publish its tasks to any queue; a map of a plain task runs."""
    member, queue = dict(shop.signature("note", "of-a-group")), shop.settings.task_queue
    shop.app.send_task("celery.group", ([member], [[None, None], None], "g", []), queue=queue)
    letter = shop.wait_letter("celery.group")
    assert "nothing of this service sends" in letter.attributes["reason"]
    assert not shop.lines("of-a-group")
    shop.app.send_task("celery.map", (member, ["of-a-map"]), queue=queue)
    shop.wait_line("of-a-map", "note")
    shop.wait_empty()


def test_a_task_nobody_knows_is_a_dead_letter_and_the_next_is_handled(shop: Shop) -> None:
    """After the time of a rolling deployment, with its name and the mend; until then it holds up nobody."""
    sent = time.time()
    shop.app.send_task("no.such.task", queue=shop.settings.task_queue)
    shop.wait(lambda: "task.unknown" in shop.log(), "seen")
    shop.delay("note", "after-unknown")
    (after,) = shop.wait_line("after-unknown", "note")
    letter = shop.wait_letter("no.such.task")
    assert after["at"] < letter.sent_at
    assert time.time() - sent >= UNKNOWN_TASK_SECONDS
    assert letter.attributes["error"] == "celery.exceptions.NotRegistered"
    assert "'no.such.task'" in letter.attributes["reason"]
    assert len(shop.wait_line("no.such.task", "task_unknown")) == 1
    assert "deploy" in letter.attributes["reason"]
    assert letter.attributes["attempts"] == "0"
    shop.wait_empty()


@pytest.mark.parametrize(
    "body",
    [
        "no json",
        "[]",
        json.dumps({"body": "[]", "headers": {}, "properties": {}}),
        json.dumps(
            {
                "body": "[[], {}, {}]",
                "headers": {"id": "hostile-eta", "task": "tests.integration.workshop.note", "eta": "soon"},
                "properties": {},
                "content-type": "application/json",
            }
        ),
        json.dumps(
            {
                "body": "[[], {}, {}]",
                "headers": {"id": "hostile-header", "task": "make", "pipeline": {"job_id": 1}},
                "properties": {},
                "content-type": "application/json",
            }
        ),
    ],
    ids=["text", "array", "empty", "eta", "header"],
)
def test_what_is_no_task_is_a_dead_letter_and_the_worker_goes_on(shop: Shop, body: str) -> None:
    """With its reason, at once."""
    message_id = shop.send_raw(body)
    letter = shop.wait_letter(message_id)
    assert letter.body == body
    assert letter.attributes["reason"]
    shop.wait_empty()


def test_nothing_above_made_the_worker_fail_inside(shop: Shop) -> None:
    """However the tasks ended, no thread of the worker raised anything."""
    for event in (
        "settlement.failed",
        "disposal.failed",
        "receiver.failed",
        "heartbeat.failed",
        "message.delivery_failed",
        "Unrecoverable error",
    ):
        assert event not in shop.log()
