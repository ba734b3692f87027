"""Runs of the suite's modules, each by a pytest of its own, on services that are running."""

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from pipeline.services.environment import Services
from tests.celerysuite import source
from tests.processes import free_port

#: The repository, where this project's own modules are.
ROOT = Path(__file__).parents[2]
#: Commands that the tests send, and those that they bring along.
COMMANDS = (
    *("add_consumer", "cancel_consumer", "hello", "revoke", "revoke_by_stamped_headers"),
    *("pending_operations_count", "pidbox_reset_error", "schedule_add_then_cancel_consumer"),
)
#: Seconds for one test; those of the suite itself take at most one minute on Redis.
TEST_TIMEOUT = 300


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of one module."""

    passed: int
    #: why it failed, in one line, by the test's name in its module
    failed: Mapping[str, str]
    skipped: Mapping[str, str]
    seconds: float


@contextlib.contextmanager
def redis() -> Iterator[int]:
    """Run a Redis server for the block, in memory, and yield its port: the tests note in it what ran."""
    port = free_port()
    command = [
        "redis-server",
        "--port",
        str(port),
        "--save",
        "",
        "--bind",
        "127.0.0.1",
        "--loglevel",
        "warning",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


def run(module: str, environment: Mapping[str, str], folder: Path) -> Outcome:
    """Run one module of the suite in such an environment. Its log and report go to ``folder``."""
    report, started = folder / f"{module}.xml", time.monotonic()
    options = [
        *("-p", "celery.contrib.pytest", "-p", "tests.celerysuite.plugin"),
        *("-p", "no:schemathesis", "-p", "no:xdist", "-p", "no:cacheprovider"),
        *("-q", "-ra", "--tb=short", f"--timeout={TEST_TIMEOUT}", f"--junitxml={report}"),
    ]
    with (folder / f"{module}.log").open("wb") as log:
        # The tests ask a worker before it has made what is missing.
        subprocess.run(["pipeline", "provision"], env=environment, stdout=log, stderr=log, check=True)
        subprocess.run(
            [sys.executable, "-m", "pytest", *options, f"t/integration/{module}.py"],
            cwd=source.fetch(),
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return _read(report, time.monotonic() - started)


def environment(services: Services, redis_port: int) -> dict[str, str]:
    """Return the environment of the suite's runs. All share one service, for its queue's name."""
    suite = source.fetch()
    name = f"suite-{uuid.uuid4().hex[:8]}"
    queues = services.environment["SQS_TASK_QUEUE_URL"].rsplit("/", 1)[0]
    return {
        **os.environ,
        **services.environment,
        "SERVICE_NAME": name,
        "KAFKA_CONSUMER_GROUP": name,
        "TOPIC_PREFIX": f"{name}-",
        "TOPIC_PARTITIONS": "4",
        "DYNAMODB_TABLE": f"{name}-jobs",
        "SQS_TASK_QUEUE_URL": f"{queues}/celery.fifo",
        "SQS_DLQ_URL": f"{queues}/{name}-dlq.fifo",
        "SQS_WAIT_TIME_SECONDS": "1",
        "TASK_MODULES": "t.integration.tasks",
        "CONTROL_COMMANDS": ",".join(COMMANDS),
        # A test waits for the end of some tasks that fail.
        "MAX_RETRIES": "0",
        "RESULTS": "true",
        "TEST_BROKER": "fifo://",
        "TEST_BACKEND": "pipeline.results.backend:Backend",
        "REDIS_PORT": str(redis_port),
        # For commands that name no app.
        "APP": "tests.celerysuite.app",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{suite}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def _read(report: Path, seconds: float) -> Outcome:
    passed, failed, skipped = 0, {}, {}
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():  # noqa: S314 - pytest's own
        name = _name(case)
        ends = {child.tag: child.get("message") or "" for child in case}
        if wrong := [ends[tag] for tag in ("failure", "error") if tag in ends]:
            failed[name] = wrong[0].split("\n", 1)[0][:200]
        elif "skipped" in ends:
            skipped[name] = ends["skipped"]
        else:
            passed += 1
    return Outcome(passed=passed, failed=failed, skipped=skipped, seconds=seconds)


def _name(case: ElementTree.Element) -> str:
    # t.integration.test_inspect.test_Inspect: a function of a module has no class.
    classes = (case.get("classname") or "").split(".")[3:]
    return "::".join([*classes, case.get("name") or ""])
