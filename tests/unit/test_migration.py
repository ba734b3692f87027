"""What ``pipeline migrate check`` finds in an app and in its code."""

import re
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Task, _state
from celery.app.defaults import DEFAULTS
from celery.schedules import BaseSchedule, crontab
from kombu import Exchange, Queue

from pipeline.migration.appchecks import check_app
from pipeline.migration.finding import Finding
from pipeline.migration.settingstable import Effect, effects
from pipeline.migration.sourcechecks import check_source, check_sources

# Celery warns of some options of a task; projects have them all the same.
pytestmark = pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "celery-settings.md"


@pytest.fixture(autouse=True)
def _no_tasks_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app of this process would have the shared tasks of every module that a test imported."""
    own = {each for each in _state._on_app_finalizers if each.__module__ == "celery.app.builtins"}
    monkeypatch.setattr(_state, "_on_app_finalizers", own)


def app_with(**settings: Any) -> Celery:
    """An app on Redis."""
    app = Celery("shop", broker="redis://localhost", set_as_current=False)
    app.conf.update(settings)
    return app


def findings(app: Celery) -> list[tuple[str, str, str]]:
    """Level, subject and text of each finding, without those that every app on Redis has."""
    return [
        (each.level, each.about, f"{each.what} → {each.mend}")
        for each in check_app(app)
        if each.about != "broker_url"
    ]


# ─── Settings ───


def test_every_setting_of_celery_is_in_the_table() -> None:
    """Also one that a new version of Celery brings: the table would not know what it does."""
    assert effects().keys() == DEFAULTS.keys()


def row(name: str, effect: Effect) -> str:
    return f"| `{name}` | {effect.kind} | {effect.text} |"


def test_the_documented_table_is_the_table() -> None:
    """Row by row."""
    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    assert rows == [row(*each) for each in effects().items()]


@pytest.mark.parametrize(
    ("settings", "level", "about", "text"),
    [
        ({"task_serializer": "pickle"}, "error", "task_serializer", "is 'pickle' → 'json'"),
        ({"task_compression": "gzip"}, "error", "task_compression", "is 'gzip'"),
        ({"task_time_limit": 50_000}, "error", "task_time_limit", "at most 39600"),
        ({"worker_pool": "gevent"}, "error", "worker_pool", "prefork, threads or solo"),
        ({"worker_direct": True}, "error", "worker_direct", "is True"),
        ({"control_exchange": "mine"}, "error", "control_exchange", "is 'mine'"),
        ({"broker_write_url": "amqp://"}, "error", "broker_write_url", "is 'amqp://'"),
        ({"security_key": "k"}, "error", "security_key", "unset"),
        ({"task_default_exchange_type": "topic"}, "error", "task_default_exchange_type", "no exchanges"),
        ({"task_default_queue": "celery"}, "warning", "task_default_queue", "is celery.fifo on SQS"),
        ({"task_queues": [Queue("a")]}, "warning", "task_queues", "'a', which is a.fifo on SQS"),
        ({"task_queues": {"a": {}}}, "warning", "task_queues", "'a', which is a.fifo on SQS"),
        (
            {"task_queues": [Queue("a.fifo", Exchange("m", type="topic"))]},
            "error",
            "task_queues, a.fifo",
            "topic exchange",
        ),
        ({"task_routes": {"t": "slow"}}, "warning", "task_routes, t", "'slow', which is slow.fifo on SQS"),
        ({"task_routes": [{"t": {"exchange": "m"}}]}, "error", "task_routes, t", "sets exchange"),
        ({"task_routes": (("t.*", {"queue": "q"}),)}, "warning", "task_routes, t.*", "'q'"),
        ({"task_routes": {"t": {"priority": 3}}}, "warning", "task_routes, t", "FIFO queues have none"),
        ({"task_routes": "proj.Router"}, "note", "task_routes", "router that is code"),
        ({"task_protocol": 1}, "warning", "task_protocol", "1 does not count: .* protocol 2"),
        ({"task_acks_late": False}, "warning", "task_acks_late", "False does not count"),
        ({"result_backend": "redis://h"}, "warning", "result_backend", "does not count: .* RESULTS=true"),
        ({"accept_content": ["pickle"]}, "warning", "accept_content", "does not count"),
        ({"redis_max_connections": 3}, "note", "redis_max_connections", "has no effect"),
        ({"beat_scheduler": "mine:Own"}, "note", "beat_scheduler", "of celery beat alone"),
    ],
)
def test_a_setting_that_does_something_else_is_found(
    settings: dict[str, Any], level: str, about: str, text: str
) -> None:
    """With its value and what to do."""
    (found,) = findings(app_with(**settings))
    assert found[:2] == (level, about)
    assert re.search(text, found[2])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"worker_concurrency": 8, "timezone": "Europe/Berlin", "task_always_eager": True},
        {"task_serializer": "json", "task_protocol": 2, "worker_pool": "threads", "accept_content": ["json"]},
        {"task_acks_late": True, "task_reject_on_worker_lost": True, "worker_prefetch_multiplier": 4},
        {"task_default_queue": "a.fifo", "task_queues": [Queue("a.fifo")], "task_routes": {"t": "a.fifo"}},
        {"task_time_limit": 300, "result_expires": 60, "task_track_started": True},
    ],
)
def test_what_works_as_it_did_is_no_finding(settings: dict[str, Any]) -> None:
    """Whatever else the app sets."""
    assert findings(app_with(**settings)) == []


def test_the_broker_is_an_error_that_says_the_two_lines_to_change() -> None:
    """And shows no password."""
    app = Celery("shop", broker="redis://:hunter2@h:6379/0", set_as_current=False)
    (found,) = check_app(app)
    assert (found.level, found.about) == ("error", "broker_url")
    assert "hunter2" not in found.what
    assert "fifo://" in found.mend
    assert "pipeline.install(app)" in found.mend


def test_a_schedule_is_read_entry_by_entry() -> None:
    """Tasks that nobody defines, and queues that somebody must create."""
    app = app_with(
        beat_schedule={
            "nightly": {"task": "gone", "schedule": crontab(hour=3)},
            "sunset": {"task": "celery.backend_cleanup", "schedule": BaseSchedule()},
            "often": {"task": "celery.backend_cleanup", "schedule": 30.0, "options": {"queue": "slow"}},
        }
    )
    found = {(level, about) for level, about, _ in findings(app)}
    assert found == {
        ("warning", "beat_schedule, nightly"),
        ("error", "beat_schedule, sunset"),
        ("warning", "beat_schedule, often"),
        ("note", "beat_schedule"),
    }


# ─── Tasks ───


class OwnRequest(Task):  # type: ignore[misc]
    """A base class with a request of its own."""

    abstract = True
    Request = "proj.requests:Own"


def task_app(function: Any, **options: Any) -> list[tuple[str, str, str]]:
    app = app_with(task_acks_late=True)
    app.task(name="t", shared=False, autoretry_for=(OSError,), **options)(function)
    return findings(app)


def plain() -> None: ...


def lazy() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("function", "options", "level", "text"),
    [
        (lazy, {}, "error", "is a generator"),
        (plain, {"serializer": "yaml"}, "error", "is serialized as yaml"),
        (plain, {"Strategy": "celery_batches:Strategy"}, "error", "Strategy of its own"),
        (plain, {"base": OwnRequest}, "warning", "proj.requests:Own, which is replaced"),
        (plain, {"priority": 3}, "warning", "has a priority"),
        (plain, {"time_limit": 50_000}, "error", "has a time limit of 50000 s"),
        (plain, {"queue": "slow"}, "warning", "'slow', which is slow.fifo on SQS"),
        (plain, {"routing_key": "a.b"}, "error", "sets routing_key"),
    ],
)
def test_a_task_that_cannot_run_as_it_did_is_found(
    function: Any, options: dict[str, Any], level: str, text: str
) -> None:
    """With the reason."""
    ((found_level, about, said),) = task_app(function, **options)
    assert (found_level, about) == (level, "t")
    assert text in said


def test_a_plain_task_is_no_finding() -> None:
    """Nor are the options that mean the same."""
    assert task_app(plain, rate_limit="3/s", max_retries=2, time_limit=60, queue="a.fifo") == []


def test_what_is_different_for_all_tasks_is_said_once() -> None:
    """However many tasks there are: late acknowledgement, and retries of what raises."""
    app = app_with()
    for number in range(3):
        app.task(name=f"t{number}", shared=False)(plain)
    assert [about for _, about, _ in findings(app)] == ["all tasks", "3 tasks"]


# ─── Source ───


def source(text: str) -> list[Finding]:
    return list(check_source("proj/tasks.py", text.encode()))


@pytest.mark.parametrize(
    ("text", "level", "about", "what"),
    [
        ("add.delay(1).get()", "warning", ".get", "reads a result"),
        ("r = add.apply_async((1,))\nr.get(timeout=3)", "warning", ".get", "reads a result"),
        ("AsyncResult(task_id).state", "warning", ".state", "reads a result"),
        ("app.AsyncResult(task_id).ready()", "warning", ".ready", "reads a result"),
        ("add.apply_async((1,), priority=p)", "warning", "apply_async()", "priority=p is ignored"),
        ("add.apply_async(countdown=3_000_000)", "error", "apply_async()", "beyond 13 days"),
        ("app.send_task('t', exchange='m')", "error", "send_task()", "there are none"),
        ("add.apply_async(routing_key=key)", "error", "apply_async()", "names a binding"),
        ("add.apply_async(serializer='pickle')", "error", "apply_async()", "tasks travel as JSON"),
        ("add.apply_async(compression='gzip')", "error", "apply_async()", "is refused"),
        ("add.apply_async(connection=c)", "warning", "apply_async()", "a broker of its own"),
        ("@shared_task(acks_late=False)\ndef f(): ...", "warning", "f", "does not count"),
        ("@app.task(acks_late=False)\nasync def f(): ...", "warning", "f", "does not count"),
        ("app.control.purge()", "warning", "control.purge", "deletes all tasks"),
        ("current_app.control.revoke('x')", "warning", "control.revoke", "where a setting lists it"),
        ("app.control.inspect().scheduled()", "note", "inspect.scheduled", "wait on SQS"),
        ("import celery_batches", "error", "import celery_batches", "past their leases"),
        ("from celery_batches import Batches", "error", "import celery_batches", "past their leases"),
        ("from kombu import Connection", "warning", "import kombu", "exchanges"),
        ("import gevent.monkey", "warning", "import gevent.monkey", "refused"),
        ("def f(:", "warning", "source", "cannot be parsed"),
        ("x = '\0'", "warning", "source", "cannot be parsed"),
    ],
)
def test_a_call_that_does_something_else_is_found(text: str, level: str, about: str, what: str) -> None:
    """With its file and line."""
    (found,) = source("\n" + text)
    assert (found.level, found.about) == (level, about)
    assert what in found.what
    assert found.where is not None
    assert found.where.startswith("proj/tasks.py:")
    assert int(found.where.split(":")[1]) in (1, 2, 3)


@pytest.mark.parametrize(
    "text",
    [
        "settings.get('x')\nrequests.get(url)\nd = {}\nd.get(1)",
        "def f():\n    r = add.delay(1)\n\ndef g(r):\n    return r.get(1)",
        "add.apply_async((1,), countdown=60, queue='slow', serializer='json', priority=None)",
        "add.apply_async((1,), queue=name, serializer=name, countdown=delay)",
        "cache.set('key', 3, timeout=5)\nfrom kombu import Queue\nimport rediscover",
        "@shared_task(acks_late=True, priority=3)\ndef f(): ...",
        "fleet.purge()\nremote.revoke(x)",
    ],
)
def test_other_code_is_no_finding(text: str) -> None:
    """A name that only looks like Celery's, an option that means the same."""
    assert source(text) == []


def test_folders_are_searched_without_what_is_installed(tmp_path: Path) -> None:
    """Environments, hidden folders and packages of others are not the project's code."""
    for place in ("app", ".hidden", "venv", "node_modules", "site-packages"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "tasks.py").write_text("app.control.purge()\n")
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (found,) = check_sources([tmp_path])
    assert found.where is not None
    assert found.where.endswith("app/tasks.py:1")
