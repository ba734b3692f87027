"""Projects of Django and Flask with Celery apps of their own, run as their users run them."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.services.children import Children, children
from pipeline.services.environment import Services
from tests.acceptance.conftest import Installed
from tests.conftest import MakeEnvironment
from tests.processes import free_port, wait_until

#: As "django-admin startproject proj ." and "startapp shop" make it, with the app of Celery's guide.
DJANGO = {
    "proj/__init__.py": "from .celery import app as celery_app\n\n__all__ = ('celery_app',)\n",
    "proj/celery.py": """
import os

import pipeline
from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")

app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
pipeline.install(app)
app.autodiscover_tasks()
""",
    "proj/settings.py": """
from pathlib import Path

SECRET_KEY = "for-tests"
INSTALLED_APPS = ["shop"]
NAME = Path(__file__).parents[1] / "db.sqlite3"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": NAME, "CONN_MAX_AGE": None}}
TIME_ZONE = "Europe/Berlin"
USE_TZ = True
CELERY_BROKER_URL = "fifo://"
CELERY_WORKER_CONCURRENCY = 1
CELERY_TASK_ACKS_LATE = False
""",
    "shop/__init__.py": "",
    "shop/models.py": """
from django.db import models


class Sale(models.Model):
    article = models.CharField(max_length=100)
    amount = models.IntegerField()
""",
    "shop/tasks.py": """
from celery import chain, shared_task
from django.db import connection

from pipeline import stage
from shop.models import Sale


@shared_task
def price(article):
    return [article, len(article)]


@shared_task
def doubled(sale):
    article, amount = sale
    return [article, 2 * amount]


@shared_task
def store(sale):
    fresh = connection.connection is None
    article, amount = sale
    Sale.objects.create(article=article, amount=amount)
    Sale.objects.create(article=f"{article} on a fresh connection", amount=fresh)


@stage(consumes="article-sold")
def sold(data: dict[str, int]) -> None:
    for article, amount in data.items():
        Sale.objects.create(article=article, amount=amount)
""",
    "publish.py": """
import django

django.setup()

from celery import chain
from django.db import transaction
from shop.tasks import doubled, price, store

with transaction.atomic():
    store.delay_on_commit(["kept", 1])
try:
    with transaction.atomic():
        store.delay_on_commit(["lost", 1])
        raise ValueError("the order is not valid")
except ValueError:
    pass
chain(price.s("chair"), doubled.s(), store.s()).delay()
""",
}

#: Flask's own page "Background Tasks with Celery", with one line more.
FLASK = {
    "greetings/__init__.py": """
import pipeline
from celery import Celery, Task
from celery.result import AsyncResult
from flask import Flask, request

from greetings import tasks


def celery_init_app(app):
    class FlaskTask(Task):
        def __call__(self, *args, **kwargs):
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    pipeline.install(celery_app)
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return celery_app


def create_app():
    app = Flask(__name__)
    app.config.from_mapping(
        GREETING="Good morning",
        CELERY={
            "broker_url": "fifo://",
            "task_ignore_result": True,
            "beat_schedule": {"tick": {"task": "greetings.tasks.tick", "schedule": 1.0}},
        },
    )
    celery_init_app(app)

    @app.post("/greet")
    def greet():
        return {"result_id": tasks.greet.delay(request.form["name"]).id}

    @app.get("/result/<id>")
    def result(id):
        found = AsyncResult(id)
        return {"ready": found.ready(), "value": found.result if found.ready() else None}

    return app
""",
    "greetings/tasks.py": """
from pathlib import Path

from celery import shared_task
from flask import current_app


@shared_task(ignore_result=False)
def greet(name):
    return f"{current_app.config['GREETING']}, {name}"


@shared_task
def tick():
    with Path("ticks").open("a") as file:
        file.write(current_app.name + "\\n")
""",
    "make_celery.py": """
from greetings import create_app

flask_app = create_app()
celery_app = flask_app.extensions["celery"]
""",
}


@dataclass
class Project:
    """A project in a folder, with its processes."""

    installed: Installed
    folder: Path
    environment: dict[str, str]
    started: Children

    def start(self, *command: str) -> None:
        """Start ``celery -A …`` with ``command``; its log is the file of its last word."""
        with self.log_file(command[2]).open("wb") as log:
            self.started.start(
                [str(self.installed.scripts / "celery"), *command],
                environment=self.environment,
                output=log,
                folder=self.folder,
            )

    def run(self, *command: object) -> str:
        """The standard output of a command that succeeds."""
        done = subprocess.run(
            list(map(str, command)),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def celery(self, *command: object) -> str:
        """The standard output of ``celery`` with ``command``."""
        return self.run(self.installed.scripts / "celery", *command)

    def python(self, *command: object) -> str:
        """The standard output of ``python`` with ``command``."""
        return self.run(self.installed.python, *command)

    def wait(self, condition: Any, what: str) -> None:
        """Wait until ``condition`` is true; fail with the logs."""
        try:
            wait_until(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()[-8000:]}") from None

    def log_file(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def logs(self) -> str:
        return "".join(log.read_text() for log in self.folder.glob("*.log"))


@contextmanager
def project(
    installed: Installed, files: dict[str, str], folder: Path, environment: dict[str, str]
) -> Iterator[Project]:
    """The project of these files, in ``folder``; its queues are made, and what it starts is ended."""
    for name, source in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(source)
    with children() as started:
        made = Project(installed, folder, environment, started)
        made.run(installed.pipeline, "provision")
        yield made


def test_a_django_project(
    installed: Installed, tmp_path: Path, embedded_services: Services, make_environment: MakeEnvironment
) -> None:
    """Shared tasks, a chain, ``delay_on_commit``, closed connections, a stage, Flower and ``inspect``."""
    environment = make_environment(
        embedded_services,
        DJANGO_SETTINGS_MODULE="proj.settings",
        TASK_MODULES="shop.tasks",
        FLOWER_UNAUTHENTICATED_API="true",
    )
    port = free_port()
    with project(installed, DJANGO, tmp_path, environment) as django:
        django.python("-m", "django", "migrate", "--run-syncdb")
        django.start("-A", "proj", "worker", "-n", "w@test")
        django.start("-A", "proj", "flower", "--address=127.0.0.1", f"--port={port}")
        django.start("-A", "proj", "bridge")
        django.python("publish.py")
        django.run(installed.pipeline, "submit", "sold", "--data", '{"table": 4}', "--wait")
        expected = {
            "kept": 1,
            "chair": 10,
            "table": 4,
            "kept on a fresh connection": 1,
            "chair on a fresh connection": 1,
        }
        found: dict[str, int] = {}

        def stored() -> bool:
            found.update(json.loads(django.python("-c", SALES)))
            return found.keys() >= expected.keys()

        django.wait(stored, "all sales are stored")
        django.wait(lambda: set(_workers(port)) == {"w@test"}, "Flower shows the worker")
        assert found == expected
        assert "pong" in django.celery("-A", "proj", "inspect", "ping", "-d", "w@test", "-t", "60")
        (line,) = [
            json.loads(line)
            for line in django.log_file("worker").read_text().splitlines()
            if "worker.settings_overruled" in line
        ]
        assert list(line["settings"]) == ["task_acks_late"]


def _workers(port: int) -> dict[str, Any]:
    """The workers that Flower knows, by name."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/workers?refresh=1", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
    except OSError:
        return {}
    return found


#: Prints the sales as JSON.
SALES = """
import django, json
django.setup()
from shop.models import Sale
print(json.dumps(list(Sale.objects.values_list("article", "amount"))))
"""


def test_a_flask_project(
    installed: Installed, tmp_path: Path, embedded_services: Services, make_environment: MakeEnvironment
) -> None:
    """Its context task, results of a task by a view, and ``celery beat``."""
    environment = make_environment(embedded_services, TASK_MODULES="greetings.tasks")
    with project(installed, FLASK, tmp_path, environment) as flask:
        flask.start("-A", "make_celery", "worker", "-c", "1")
        flask.start("-A", "make_celery", "beat")
        assert json.loads(flask.python("-c", GREET)) == {"ready": True, "value": "Good morning, Ada"}
        flask.wait((tmp_path / "ticks").exists, "beat's task has run")
        assert set((tmp_path / "ticks").read_text().split()) == {"greetings"}


#: Asks for a greeting and for its result, as a browser does.
GREET = """
import json, time
from make_celery import flask_app

client = flask_app.test_client()
result = client.post("/greet", data={"name": "Ada"}).json["result_id"]
end = time.monotonic() + 60
while not (found := client.get(f"/result/{result}").json)["ready"]:
    assert time.monotonic() < end, "the greeting has not come"
    time.sleep(0.1)
print(json.dumps(found))
"""
