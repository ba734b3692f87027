"""``pipeline.install``: any app of Celery becomes one of this project, and keeps what is its own."""

import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.loaders.app import AppLoader

import pipeline
from pipeline.author.registry import REGISTRY
from pipeline.errors import ConfigurationError
from pipeline.worker import celerychecks, celerysettings
from pipeline.worker.bootsteps import Health, Preflight, Runtime, Settling
from tests.builders import settings
from tests.unit.test_taskmodules import CELERY, NEEDED, STAGE

#: Values of an app's own, none of them this project's.
OWN: dict[str, Any] = {
    "task_default_queue": "own.fifo",
    "task_time_limit": 77,
    "worker_prefetch_multiplier": 3,
    "worker_concurrency": 5,
    "timezone": "Europe/Berlin",
    "task_routes": {"shop.*": {"queue": "slow.fifo"}},
}


class OwnLoader(AppLoader):  # type: ignore[misc]
    """A loader of the app's own."""


def make(**options: Any) -> Celery:
    """Return an app as its users make it, with the settings of a service."""
    return with_settings(pipeline.install(Celery("shop", **options)))


def with_settings(app: Celery) -> Celery:
    app.pipeline.settings = settings()
    return app


def test_an_app_gets_consumer_steps_and_backend() -> None:
    """As the app of this project, which is made by the same line."""
    app = make()
    assert app.conf.worker_consumer == "pipeline.worker.consumer:Consumer"
    assert {Preflight, Runtime, Health} <= app.steps["worker"]
    assert Settling in app.steps["consumer"]
    assert type(app.backend).__module__ == "pipeline.results.backend"
    assert type(app.control).__module__ == "pipeline.control.mailbox"
    with app.connection_for_write() as connection:
        assert type(connection.transport).__module__ == "pipeline.control.transport"


def test_a_second_call_changes_nothing() -> None:
    """Its service, steps and loader stay."""
    app = make()
    before = app.pipeline, app.loader.import_default_modules
    assert pipeline.install(app) is app
    assert (app.pipeline, app.loader.import_default_modules) == before


@pytest.mark.parametrize("namespace", [None, "CELERY"])
@pytest.mark.parametrize("when", ["before", "after", "read"])
def test_an_apps_own_settings_count(namespace: str | None, when: str) -> None:
    """With a namespace or without, installed before, after, or once the configuration was read."""
    app = Celery("shop")
    prefix = f"{namespace}_" if namespace else ""
    config = {f"{prefix}{name}".upper() if namespace else name: value for name, value in OWN.items()}
    if when == "before":
        pipeline.install(app)
    app.config_from_object(config, namespace=namespace)
    if when == "read":
        assert app.conf.timezone == "Europe/Berlin"
    with_settings(pipeline.install(app))
    assert {name: app.conf[name] for name in OWN} == OWN
    assert app.conf.broker_url == "fifo://"
    assert app.conf.worker_proc_alive_timeout == 60.0
    celerysettings.check_celery_settings(app.conf)


def test_where_an_app_names_no_queue_it_is_the_services() -> None:
    """That of SQS_TASK_QUEUE_URL, where the bridge sends stages."""
    assert make().conf.task_default_queue == settings().task_queue


def test_the_environment_is_read_only_for_a_value_that_depends_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other code of the app, such as its unit tests, does without the settings of the service."""
    monkeypatch.delenv("SERVICE_NAME", raising=False)
    app = pipeline.install(Celery("shop", task_always_eager=True))

    def double(number: int) -> int:
        return 2 * number

    assert app.conf.task_acks_late
    assert app.task(double, shared=False).delay(4).get() == 8
    with pytest.raises(celerychecks.StartRefused, match="SERVICE_NAME"):
        _ = app.conf.task_default_queue


def test_an_apps_own_loader_stays() -> None:
    """It imports what it imported."""
    app = make(loader=f"{__name__}:OwnLoader")
    assert type(app.loader) is OwnLoader


def test_a_stage_in_a_module_that_celery_imports_gets_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is named after ``install``."""
    (tmp_path / "installed_later.py").write_text(STAGE.format("installed_later"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(REGISTRY, "_stages", {})
    app = make()
    app.pipeline.settings = settings().model_copy(update={"task_modules": ("tests.builders",)})
    app.conf.imports = ["installed_later"]
    app.loader.import_default_modules()
    assert "installed_later" in app.tasks


def test_a_spawned_pool_process_installs_again() -> None:
    """It makes the app anew, from what Celery pickles of it."""
    app = Celery("shop", set_as_current=False)
    app.conf.task_default_queue = "own.fifo"
    again = pickle.loads(pickle.dumps(pipeline.install(app)))  # noqa: S301 - written here
    assert again is not app
    assert with_settings(again).conf.task_default_queue == "own.fifo"
    assert again.conf.worker_consumer == "pipeline.worker.consumer:Consumer"
    assert again.loader.import_default_modules.func.__module__ == "pipeline.worker.loader"


def test_a_limit_that_sqs_cannot_keep_is_refused() -> None:
    """SQS holds no message longer than 12 hours."""
    app = make()
    app.conf.task_time_limit = 12 * 3600
    with pytest.raises(ConfigurationError, match="task_time_limit is 43200, and at most 39600"):
        celerysettings.check_celery_settings(app.conf)


def test_a_secret_in_a_setting_is_not_shown() -> None:
    """The warning quotes values, and kombu's SQS transport takes access keys in one."""
    app = make(broker_transport_options={"predefined_queues": {"a": {"secret_access_key": "Sx7tellnobody"}}})
    with pytest.MonkeyPatch.context() as patch:
        said: list[Any] = []
        patch.setattr(celerysettings.log, "warning", lambda *_, **fields: said.append(fields))
        celerysettings.check_celery_settings(app.conf)
    assert "broker_transport_options" in said[0]["settings"]
    assert "Sx7tellnobody" not in repr(said)


APP = """
from celery import Celery
app = Celery("shop", broker="fifo://")
"""


@pytest.mark.parametrize("command", ["worker", "bridge", "inspect ping"])
def test_an_app_without_the_line_is_refused_with_it(tmp_path: Path, command: str) -> None:
    """Every command says what to add, and none starts."""
    (tmp_path / "shop.py").write_text(APP)
    done = subprocess.run(
        [CELERY, "-A", "shop", *command.split()],
        cwd=tmp_path,
        env={**os.environ, **NEEDED, "AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "pipeline.install(app)" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_guide_has_every_rule() -> None:
    """Each setting with a rule is a row of the guide's table, with its effect and its reason."""
    guide = (Path(__file__).parents[2] / "docs/guides/own-app.md").read_text()
    for name, rule in celerysettings.RULES.items():
        [row] = [line for line in guide.splitlines() if line.startswith(f"| `{name}` |")]
        assert f"| {rule.effect}: " in row
        assert f"| {rule.why} |" in row
