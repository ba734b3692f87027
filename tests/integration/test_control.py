"""Celery's remote control and Flower, on workers whose tasks are on SQS: over Kafka, and without it."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery.result import AsyncResult

from pipeline.author.registry import Registry
from pipeline.client.submission import Submission, SubmittedJob, Submitter
from pipeline.infra.provision import provision
from pipeline.jobs import JobStore
from pipeline.kafka import EventProducer, OutgoingRecord
from pipeline.observe.stagestats import StageStats
from pipeline.services.environment import Services
from pipeline.settings import load_settings
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.sqs.queues import make_queue
from tests.conftest import MakeEnvironment
from tests.integration.fleet import AUTH, WORKERS, Fleet, Flower, run_fleet
from tests.processes import PATIENCE, wait_until
from tests.webdriver import Browser, browsing

NAMES = {f"{name}@test" for name in WORKERS}

#: Options for commands that end with the last answer: by default they wait for a second.
PATIENTLY = ("--timeout", f"{PATIENCE / 2:g}")


@pytest.fixture(scope="module")
def fleet(
    local_services: Services,
    make_environment: MakeEnvironment,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Fleet]:
    with run_fleet(local_services, make_environment, tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


def send(fleet: Fleet, name: str, *args: object, **options: Any) -> str:
    """Send a chore; its task id."""
    result: AsyncResult[Any] = fleet.app.send_task(
        f"tests.integration.chores.{name}", args, queue=fleet.settings.task_queue, **options
    )
    return str(result.id)


# ─── inspect and control ───


def test_all_workers_answer_in_time(fleet: Fleet) -> None:
    """Three workers answer a ping that names nobody."""
    answers = fleet.app.control.inspect(timeout=PATIENCE, limit=len(NAMES)).ping()
    assert answers == {name: {"ok": "pong"} for name in NAMES}


def test_what_workers_say_of_themselves(fleet: Fleet) -> None:
    """stats, conf, registered, active_queues: of each worker, and no secret in any."""
    for name, stats in fleet.ask("stats").items():
        assert stats["broker"]["transport"] == "fifo"
        assert stats["broker"]["transport_options"] == {}
        assert stats["jobs_shown"] == "all"
        assert stats["pool"]["max-concurrency"] == {"scaling@test": 1}.get(name, 2)
    conf = fleet.ask("conf")
    assert set(conf) == NAMES
    assert {answer["task_default_queue"] for answer in conf.values()} == {fleet.settings.task_queue}
    registered = fleet.ask("registered")
    assert all("tests.integration.chores.add" in tasks and "wash" in tasks for tasks in registered.values())
    queues = fleet.ask("active_queues")
    assert set(queues) == NAMES
    assert {q["name"] for answer in queues.values() for q in answer} == {fleet.settings.task_queue}


def test_a_running_task_is_seen(fleet: Fleet, tmp_path: Path) -> None:
    """active and query_task name a task that runs, with its arguments; reserved and scheduled answer."""
    gate = tmp_path / "gate"
    task_id = send(fleet, "wait_for", str(gate))

    def active() -> list[dict[str, Any]]:
        return [task for tasks in fleet.ask("active").values() for task in tasks if task["id"] == task_id]

    wait_until(active, "the task runs")
    (task,) = active()
    assert task["name"] == "tests.integration.chores.wait_for"
    assert task["args"] == [str(gate)]
    found = {name: tasks for name, tasks in fleet.ask("query_task", ids=[task_id]).items() if tasks}
    (tasks,) = found.values()
    assert tasks[task_id][0] == "active"
    for command in ("reserved", "scheduled"):
        assert fleet.ask(command) == {name: [] for name in NAMES}
    gate.touch()
    wait_until(lambda: not active(), "the task ends")


@pytest.mark.parametrize(
    ("command", "arguments", "answer"),
    [
        ("heartbeat", {}, None),
        ("enable_events", {}, {"ok": "task events already enabled"}),
        (
            "rate_limit",
            {"task_name": "tests.integration.chores.add", "rate_limit": "100/s"},
            {"ok": "new rate limit set successfully"},
        ),
        (
            "time_limit",
            {"task_name": "tests.integration.chores.nap", "soft": 50.0},
            {"ok": "time limits set successfully"},
        ),
    ],
)
def test_commands_to_all(fleet: Fleet, command: str, arguments: dict[str, Any], answer: object) -> None:
    """Each worker carries out a command that is sent to all."""
    assert fleet.ask(command, **arguments) == dict.fromkeys(NAMES, answer)


def test_a_command_that_is_not_allowed_is_refused(fleet: Fleet) -> None:
    """The answer names the setting that allows it."""
    answer = fleet.cli("control", *PATIENTLY, "-d", "prefork@test", "disable_events")
    assert "CONTROL_COMMANDS of this worker does not allow disable_events" in answer.stdout + answer.stderr


def test_a_forged_command_changes_nothing(fleet: Fleet) -> None:
    """A record that is not signed, as everybody who may write to the topic can make it."""
    keyless = {name: value for name, value in fleet.environment.items() if name != "CONTROL_KEY"}
    command = ("control", *PATIENTLY, "-d", "prefork@test", "shutdown")
    answer = fleet.cli(*command, environment=keyless)
    assert "it is not signed: set CONTROL_KEY" in answer.stdout + answer.stderr
    forge(fleet, {"method": "shutdown", "arguments": {}})
    assert set(fleet.ask("ping")) == NAMES
    assert fleet.log("prefork").count("control.refused") >= 2


def test_pools_grow_and_shrink(fleet: Fleet) -> None:
    """pool_grow and pool_shrink change a prefork pool, autoscale one that scales; others refuse."""
    target = ["prefork@test"]

    def size() -> int:
        return len(fleet.ask("stats", destination=target)["prefork@test"]["pool"]["processes"])

    assert fleet.ask("pool_grow", destination=target, n=1) == {"prefork@test": {"ok": "pool will grow"}}
    wait_until(lambda: size() == 3, "a third process")
    assert fleet.ask("pool_shrink", destination=target, n=1) == {"prefork@test": {"ok": "pool will shrink"}}
    wait_until(lambda: size() == 2, "two processes")
    assert fleet.ask("autoscale", destination=["scaling@test"], max=2, min=1) == {
        "scaling@test": {"ok": "autoscale now max=2 min=1"}
    }
    assert "error" in fleet.ask("autoscale", destination=target, max=2, min=1)["prefork@test"]
    assert "may have 4" in fleet.ask("pool_grow", destination=target, n=30)["prefork@test"]["error"]
    assert size() == 2


def test_queues_come_and_go(fleet: Fleet) -> None:
    """cancel_consumer and add_consumer change what a worker takes; a queue that is missing harms none."""
    target, queue = ["threads@test"], fleet.settings.task_queue
    assert "ok" in fleet.ask("cancel_consumer", destination=target, queue=queue)["threads@test"]
    wait_until(lambda: fleet.queues("threads") == [], "no queue")
    assert "ok" in fleet.ask("add_consumer", destination=target, queue=queue)["threads@test"]
    wait_until(lambda: fleet.queues("threads") == [queue], "the queue is back")
    fleet.ask("add_consumer", destination=target, queue="nowhere.fifo")
    wait_until(lambda: "queue.not_added" in fleet.log("threads"), "the refusal")
    assert fleet.queues("threads") == [queue]


def test_a_waiting_task_is_revoked(fleet: Fleet, flower: Flower) -> None:
    """A task revoked before it starts never runs; Flower shows it as revoked."""
    task_id = send(fleet, "nap", 0, countdown=10)
    assert set(fleet.ask("revoke", task_id=task_id)) == NAMES
    wait_until(lambda: flower.task(task_id).get("state") == "REVOKED", "revoked")


def test_a_running_task_is_terminated(fleet: Fleet, flower: Flower) -> None:
    """terminate ends a run; its process is replaced, and the worker goes on."""
    fleet.ask("cancel_consumer", destination=["threads@test"], queue=fleet.settings.task_queue)
    # The answer comes before it is done; and this pool cannot end a run.
    wait_until(lambda: fleet.queues("threads") == [], "no queue")
    task_id = send(fleet, "nap", 60)
    wait_until(lambda: flower.task(task_id).get("state") == "STARTED", "started")
    fleet.app.control.terminate(task_id)
    wait_until(lambda: flower.task(task_id).get("state") == "REVOKED", "terminated")
    assert set(fleet.ask("ping")) == NAMES
    fleet.ask("add_consumer", destination=["threads@test"], queue=fleet.settings.task_queue)


def test_commands_as_people_type_them(fleet: Fleet) -> None:
    """status, inspect, control, and purge, which asks first."""
    every = {f"{name}: OK" for name in NAMES} | {"3 nodes online"}

    def is_said() -> bool:
        status = fleet.cli("status").stdout  # of those that answer within a second
        return all(each in status for each in every)

    wait_until(is_said, f"the status: {every}")
    ping = fleet.cli("inspect", "ping", *PATIENTLY, "--json", "-d", ",".join(sorted(NAMES)))
    assert all(name in ping.stdout for name in NAMES)
    command = ("rate_limit", "tests.integration.chores.add", "50/s")
    control = fleet.cli("control", *PATIENTLY, "-d", "prefork@test", *command)
    assert "new rate limit set" in control.stdout
    purge = fleet.cli("purge", input="n\n")
    assert purge.returncode == 1
    assert fleet.settings.task_queue in purge.stdout


# ─── Statistics ───


def test_the_last_minutes_are_known_to_who_comes_late(fleet: Fleet, tmp_path: Path) -> None:
    """A reader that starts after the tasks ran has their rate, failures and run times, and the workers."""
    for number in range(6):
        send(fleet, "add", number, 1)
    send(fleet, "nap", 0.5)
    queue = SqsQueue(sqs_client(fleet.settings), fleet.settings.sqs_task_queue_url)
    wait_until(lambda: is_empty(queue), "all have run")
    stats = StageStats(fleet.settings)
    stats.start()
    try:
        add, nap, held = (f"tests.integration.chores.{name}" for name in ("add", "nap", "wait_for"))
        # A worker sends the event of a run after it deleted the message, and counts it in a heartbeat.
        wait_until(lambda: all(stats.snapshot().rates(each).p50_seconds for each in (add, nap)), "the past")
        wait_until(lambda: stats.snapshot().rates(add).per_second, "a rate")
        wait_until(
            lambda: {worker.name for worker in stats.snapshot().workers if worker.online} >= NAMES,
            "all workers gave a sign of life",
        )
        reading = stats.snapshot()
        assert reading.error is None
        assert reading.rates(add).failed_share == 0
        assert 0.4 < (reading.rates(nap).p50_seconds or 0) < 10
        sizes = {worker.name: worker.pool_size for worker in reading.workers}
        # Several of these tasks at once may have made it scale.
        assert sizes.pop("scaling@test") in (1, 2)
        assert sizes == {"prefork@test": 2, "threads@test": 2}
        gate = tmp_path / "gate"
        send(fleet, "wait_for", str(gate))
        wait_until(lambda: stats.snapshot().rates(held).running == 1, "it is under way")
        gate.touch()
        wait_until(lambda: stats.snapshot().rates(held).running == 0, "it has ended")
    finally:
        stats.stop()


def test_without_brokers_the_statistics_say_so(fleet: Fleet) -> None:
    """Neither start, snapshot nor stop waits for a Kafka that is away; the reading has the reason."""
    stats = StageStats(fleet.settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"}))
    began = time.monotonic()
    stats.start()
    assert stats.snapshot().tasks == {}
    assert time.monotonic() - began < 10
    try:
        wait_until(lambda: stats.snapshot().error, "the reason is known")
    finally:
        stats.stop()


# ─── Flower ───


@pytest.fixture(scope="module")
def flower(fleet: Fleet) -> Flower:
    """A Flower that knows the workers."""
    flower = fleet.start_flower()
    wait_until(lambda: set(flower.json("/api/workers?refresh=1")) >= NAMES, "Flower knows them")
    return flower


def test_flower_shows_workers_and_tasks(fleet: Fleet, flower: Flower) -> None:
    """Workers are online; a task has its arguments, state, runtime, worker and a result cut to 1 kB."""
    # By their heartbeats, one of which may come late.
    wait_until(lambda: online(flower) == dict.fromkeys(NAMES, True), "all are online")
    added, napped = send(fleet, "add", 2, 3), send(fleet, "nap", 0.1)
    wait_until(lambda: flower.task(added).get("state") == "SUCCESS", "added")
    wait_until(lambda: flower.task(napped).get("state") == "SUCCESS", "napped")
    task = flower.task(added)
    assert (task["name"], task["args"], task["result"]) == ("tests.integration.chores.add", "(2, 3)", "5")
    assert task["worker"] in NAMES
    assert task["runtime"] >= 0
    assert len(flower.task(napped)["result"]) <= 1000


def test_flower_shows_retries_and_failures(fleet: Fleet, flower: Flower) -> None:
    """A retry by visibility shows as retried, with attempt and delay; then the failure with its traceback."""
    task_id = send(fleet, "fail", "no good")
    # Of two workers the one that retried may send its event after the one that failed.
    wait_until(
        lambda: (task := flower.task(task_id)).get("state") == "FAILURE" and task["retried"], "failed twice"
    )
    task = flower.task(task_id)
    assert "ValueError" in task["exception"]
    assert "no good" in task["exception"]
    assert "Traceback (most recent call last)" in task["traceback"]
    assert task["retries"] == 1
    metrics = flower.get("/metrics")
    assert 'flower_events_total{task="tests.integration.chores.fail",type="task-retried"' in metrics
    assert 'type="task-failed"' in metrics


def test_a_job_is_found(fleet: Fleet, flower: Flower) -> None:
    """Searching for a job id finds the job's tasks; so does its stage."""
    job_id = submit(fleet, "plate")
    wait_until(lambda: search(flower, job_id), "the job's task")
    (task,) = search(flower, job_id)
    assert task["name"] == "wash"
    wait_until(lambda: flower.task(task["uuid"])["state"] == "SUCCESS", "washed")
    assert job_id in flower.task(task["uuid"])["kwargs"]
    assert "clean plate" in flower.task(task["uuid"])["result"]
    assert task["uuid"] in {found["uuid"] for found in search(flower, "wash")}


def search(flower: Flower, text: str) -> list[dict[str, Any]]:
    """Return the tasks that the search field of the tasks page finds."""
    found: dict[str, dict[str, Any]] = flower.json(f"/api/tasks?search={text}")
    return list(found.values())


def submit(fleet: Fleet, dish: str) -> str:
    """Submit a job of the stage ``wash``; its id."""
    producer = EventProducer(fleet.settings, "test")
    submitter = Submitter(fleet.settings, fleet.registry, JobStore(fleet.settings), producer, "wash")
    (job,) = submitter.submit([Submission(data=json.dumps(dish).encode())])
    producer.close(5)
    assert isinstance(job, SubmittedJob)
    return job.job_id


@pytest.mark.parametrize("action", ["grow", "shrink"])
def test_flower_changes_pools(fleet: Fleet, flower: Flower, action: str) -> None:
    """Pool grow and shrink, as their buttons send it."""
    answer = flower.act(f"/api/worker/pool/{action}/prefork@test", n=1)
    assert "prefork@test" in answer["message"]


def test_flower_changes_workers(fleet: Fleet, flower: Flower) -> None:
    """Autoscale, queues, limits and revoke, as their buttons send it."""
    queue, chore = fleet.settings.task_queue, "tests.integration.chores.nap"
    flower.act("/api/worker/pool/autoscale/scaling@test", min=1, max=2)
    flower.act("/api/worker/queue/cancel-consumer/scaling@test", queue=queue)
    flower.act("/api/worker/queue/add-consumer/scaling@test", queue=queue)
    flower.act(f"/api/task/rate-limit/{chore}", workername="threads@test", ratelimit="200/s")
    flower.act(f"/api/task/timeout/{chore}", workername="prefork@test", hard=60, soft=50)
    flower.act("/api/task/revoke/no-such-task", terminate="true")


def test_flower_sends_tasks(fleet: Fleet, flower: Flower) -> None:
    """A task applied in Flower is run."""
    answer = flower.post("/api/task/async-apply/tests.integration.chores.add", {"args": [20, 22]})
    wait_until(lambda: flower.task(answer["task-id"]).get("state") == "SUCCESS", "applied")
    assert flower.task(answer["task-id"])["result"] == "42"


def test_flower_shuts_a_worker_down(fleet: Fleet, flower: Flower) -> None:
    """Shut down ends the worker, and it is shown as offline."""
    fleet.start_worker("leaving", "--concurrency", "1")
    fleet.wait_for("leaving")
    wait_until(lambda: "leaving@test" in flower.json("/api/workers?refresh=1"), "Flower knows it")
    flower.act("/api/worker/shutdown/leaving@test")
    assert fleet.workers["leaving"].wait(PATIENCE) == 0
    wait_until(lambda: online(flower).get("leaving@test") is False, "offline")


def online(flower: Flower) -> dict[str, bool]:
    return {worker["hostname"]: worker["status"] for worker in flower.json("/workers?json=1")["data"]}


def test_flower_started_late_shows_the_past(fleet: Fleet, flower: Flower) -> None:
    """Flower shows what happened before it started; a worker that has ended is not online."""
    task_id = send(fleet, "add", 1, 1)
    wait_until(lambda: flower.task(task_id).get("state") == "SUCCESS", "added")
    late = fleet.start_flower("late")
    wait_until(lambda: late.task(task_id).get("state") == "SUCCESS", "shown")
    wait_until(lambda: all(online(late).get(name) for name in NAMES), "workers online")
    assert not online(late).get("leaving@test")
    fleet.children.end(late.process)


def test_flower_keeps_its_own_state(fleet: Fleet, flower: Flower, tmp_path: Path) -> None:
    """With --persistent, and no history from the log, a Flower that is started again knows what it knew."""
    options = ("--persistent", f"--db={tmp_path / 'flower'}")
    first = fleet.start_flower("keeping", *options, EVENTS_HISTORY_SECONDS="0")
    wait_until(lambda: online(first), "it reads events")  # from the end of the log on, as that is then
    assert first.json("/api/tasks") == {}
    task_id = send(fleet, "add", 8, 8)
    wait_until(lambda: first.task(task_id).get("state") == "SUCCESS", "added")
    first.process.terminate()
    assert first.process.wait(PATIENCE) == 0
    second = fleet.start_flower("keeping", *options, EVENTS_HISTORY_SECONDS="0")
    assert second.task(task_id)["state"] == "SUCCESS"
    fleet.children.end(second.process)


def test_flower_opens_nothing_for_each_question(fleet: Fleet, flower: Flower) -> None:
    """Flower asks the workers all the time: its threads and open files do not grow with it."""
    process = psutil.Process(flower.process.pid)

    def ask() -> None:
        for _ in range(4):  # of four questions each
            flower.json("/api/workers?refresh=1")

    ask()
    files, threads = process.num_fds(), process.num_threads()
    ask()
    # Celery's pool of ten connections may still fill up, with a pipe each.
    assert process.num_fds() < files + 16
    assert process.num_threads() < threads + 8


def test_pages_in_a_browser(fleet: Fleet, flower: Flower, tmp_path: Path) -> None:
    """Workers, tasks, a failed task and a worker, as a browser shows them; the broker tab says no."""
    task_id = send(fleet, "fail", "the oven is cold")
    wait_until(lambda: flower.task(task_id).get("state") == "FAILURE", "failed")
    taken = "celery.concurrency.prefork:taskpool"
    with browsing(tmp_path) as browser:
        browser.sign_in(*AUTH.split(":"))
        for path, said in {
            "workers": (*NAMES, "Online"),
            "tasks": (task_id,),
            f"task/{task_id}": ("the oven is cold", "Traceback"),
            "worker/prefork@test": (fleet.settings.task_queue, taken, "jobs_shown"),
            "broker": ("'fifo' broker is not supported",),
        }.items():
            browser.open(f"{flower.url}/{path}")
            _wait_for_all(browser, said)


def _wait_for_all(browser: Browser, said: Collection[str]) -> None:
    """Return once the document has all of these, in any case."""

    def shown() -> bool:
        source = browser.source.lower()
        return all(each.lower() in source for each in said)

    wait_until(shown, f"{said} on {browser.url}")


def test_flower_needs_a_password(flower: Flower) -> None:
    """With FLOWER_BASIC_AUTH nobody sees anything without it."""
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(flower.url + "/workers", timeout=20)  # noqa: S310 - http
    refused.value.close()


def test_nothing_of_the_control_plane_is_on_sqs(fleet: Fleet, flower: Flower) -> None:
    """However many clients there were: the queues are the task queue and the dead-letter queue."""
    urls = sqs_client(fleet.settings).list_queues(QueueNamePrefix=fleet.settings.service_name)["QueueUrls"]
    assert {fleet.settings.sqs_task_queue_url, fleet.settings.sqs_dlq_url} == set(urls)
    every = sqs_client(fleet.settings).list_queues()["QueueUrls"]
    assert not [url for url in every if "celery" in url or "pidbox" in url]


def test_an_open_flower_is_refused(fleet: Fleet) -> None:
    """With an empty password it does not start, and says how it would."""
    refused = fleet.cli("flower", "--port=0", environment={**fleet.environment, "FLOWER_BASIC_AUTH": ""})
    assert refused.returncode == 2
    assert "FLOWER_BASIC_AUTH=name:password" in refused.stderr


def test_services_on_one_kafka_do_not_hear_each_other(
    fleet: Fleet, local_services: Services, make_environment: MakeEnvironment
) -> None:
    """Another service's ping is answered by nobody of this one."""
    other = make_environment(local_services)
    list(provision(load_settings(other), Registry()))
    ping = fleet.cli("inspect", "ping", environment=other)
    assert ping.returncode != 0
    assert "No nodes replied" in ping.stderr


def test_events_as_a_person_watches_them(fleet: Fleet) -> None:
    """celery events --dump shows the past from the log, then what happens."""
    send(fleet, "add", 4, 4)
    process = fleet.start("events", "events", "--dump")
    wait_until(lambda: "task succeeded: tests.integration.chores.add" in fleet.log("events"), "the past")
    before = fleet.log("events").count("task succeeded: tests.integration.chores.add")
    send(fleet, "add", 5, 5)
    wait_until(
        lambda: fleet.log("events").count("task succeeded: tests.integration.chores.add") > before, "now"
    )
    fleet.children.end(process)


def test_a_purge_deletes_what_waits(fleet: Fleet) -> None:
    """After a yes, the tasks that wait in the queue are gone."""
    client, name = sqs_client(fleet.settings), f"{fleet.settings.service_name}-spare.fifo"
    make_queue(client, fleet.settings.queue_url(name), {})
    for number in range(3):
        fleet.app.send_task("tests.integration.chores.add", (1, number), queue=name)
    purge = fleet.cli("purge", "-Q", name, input="y\n")
    assert "Purged 3 messages" in purge.stdout, purge.stdout + purge.stderr
    assert SqsQueue(client, fleet.settings.queue_url(name)).depth().available == 0


# ─── What should not be, and what may happen ───


def test_malformed_messages_are_skipped(fleet: Fleet, flower: Flower) -> None:
    """Garbage on a control topic is logged and skipped: workers answer, Flower goes on, nobody restarts."""
    events, commands, replies = fleet.settings.control_topics
    producer = EventProducer(fleet.settings, "test")
    garbage = [
        b"",
        b"{",
        b"[]",
        b'{"body": 1}',
        envelope("not a command"),
        envelope({"method": 1}),
        envelope({"method": "ping", "destination": 3}),
        envelope({"method": "ping", "reply_to": "here"}),
        envelope({"type": "task-received"}),
        envelope({"type": "worker-online", "hostname": "x", "timestamp": "late"}),
    ]
    records = [
        OutgoingRecord(topic=topic, key=b"k", value=value)
        for topic in (events, commands, replies)
        for value in garbage
    ]
    assert producer.emit(records, 10) == [None] * len(records)
    producer.close(5)
    assert set(fleet.ask("ping")) == NAMES
    wait_until(lambda: "control.message_invalid" in fleet.log("prefork"), "the log line")
    task_id = send(fleet, "add", 3, 4)
    wait_until(lambda: flower.task(task_id).get("state") == "SUCCESS", "Flower goes on")


def envelope(body: object, **headers: object) -> bytes:
    """A record of a control topic with this body."""
    return json.dumps(
        {
            "body": json.dumps(body),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": headers,
            "properties": {"delivery_tag": "t", "delivery_info": {}},
        }
    ).encode()


def test_an_expired_command_is_dropped(fleet: Fleet) -> None:
    """A shutdown that was sent for a moment long ago shuts nobody down."""
    forge(fleet, {"method": "shutdown", "arguments": {}}, expires=time.time() - 60)
    assert set(fleet.ask("ping")) == NAMES


def forge(fleet: Fleet, command: dict[str, Any], **headers: object) -> None:
    """Write a command to its topic as any program can."""
    producer = EventProducer(fleet.settings, "test")
    _, commands, _ = fleet.settings.control_topics
    record = OutgoingRecord(topic=commands, key=b"", value=envelope(command, **headers))
    assert producer.emit([record], 10) == [None]
    producer.close(5)


def test_a_worker_learns_what_was_revoked_before_it_started(fleet: Fleet) -> None:
    """Of the commands of the past a new worker takes the revokes, and nothing else."""
    fleet.app.control.revoke("a-task-of-the-past")
    fleet.app.control.shutdown(destination=["young@test"])
    fleet.start_worker("young", "--concurrency", "1")
    fleet.wait_for("young")
    assert "a-task-of-the-past" in fleet.ask("revoked", destination=["young@test"])["young@test"]
    fleet.app.control.shutdown(destination=["young@test"])
    assert fleet.workers["young"].wait(PATIENCE) == 0


def test_without_kafka_inspect_says_why(fleet: Fleet) -> None:
    """KAFKA_ENABLED=false: one line says that there is no control plane."""
    answer = fleet.cli("inspect", "ping", environment={**fleet.environment, "KAFKA_ENABLED": "false"})
    assert answer.returncode != 0
    assert "KAFKA_ENABLED is false" in answer.stderr


def test_a_client_does_not_wait_for_ever(fleet: Fleet) -> None:
    """Kafka out of reach: inspect ends with the reason."""
    answer = fleet.cli(
        "inspect", "ping", environment={**fleet.environment, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    )
    assert answer.returncode != 0
    assert "out of reach at Kafka (127.0.0.1:1)" in answer.stderr


def test_kafka_away(fleet: Fleet, flower: Flower) -> None:
    """Kafka does not answer: tasks go on, a worker logs once; then the control plane is back by itself."""
    kafka = listener(fleet.settings.kafka_bootstrap_servers)
    logged = fleet.log("prefork").count("control.unreachable")
    queue = SqsQueue(sqs_client(fleet.settings), fleet.settings.sqs_task_queue_url)
    kafka.suspend()
    try:
        for number in range(6):
            send(fleet, "add", 1, number)
        wait_until(lambda: is_empty(queue), "tasks go on")
        wait_until(lambda: fleet.log("prefork").count("control.unreachable") > logged, "the line")
    finally:
        kafka.resume()
    fleet.wait_for(*WORKERS)
    assert fleet.log("prefork").count("control.unreachable") == logged + 1
    wait_until(lambda: "control.reachable_again" in fleet.log("prefork"), "the other line")
    task_id = send(fleet, "add", 6, 7)
    wait_until(lambda: flower.task(task_id).get("state") == "SUCCESS", "Flower is back")


def is_empty(queue: SqsQueue) -> bool:
    depth = queue.depth()
    return depth.available + depth.in_flight == 0


def listener(address: str) -> psutil.Process:
    """The process that listens at host:port."""
    port = int(address.rsplit(":", 1)[1])
    (pid,) = {
        found.pid
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port
    }
    assert pid is not None
    return psutil.Process(pid)
