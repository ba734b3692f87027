"""The API of the jobs page: it reads and acts like the commands, for permitted callers, on any input."""

import base64
import contextlib
import json
import socket
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
import schemathesis
from click.testing import CliRunner
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from pipeline.cli import main
from pipeline.infra.provision import provision
from pipeline.jobs import JobState
from pipeline.kafka import EventProducer
from pipeline.observe.server import WebServer
from pipeline.services.environment import Services
from pipeline.settings import load_settings
from pipeline.sqs import OutgoingMessage
from pipeline.web import access
from pipeline.web.api import MAX_BODY, PREFIX
from pipeline.web.server import jobs_server
from tests.conftest import MakeEnvironment
from tests.integration import mending
from tests.integration.test_dlq import MODULE, World
from tests.loglines import log_lines
from tests.ownstages import stages_of
from tests.processes import wait_until

TOKEN = "only-for-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True)
class Served:
    """A service whose jobs page is served, without bridge and worker."""

    world: World
    server: WebServer

    def ask(
        self, path: str, body: Any = None, method: str | None = None, headers: dict[str, str] = BEARER
    ) -> tuple[int, Any]:
        """Status and answer."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310
            self.server.url + PREFIX + path,
            data=data,
            headers={"Content-Type": "application/json", **headers},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def got(self, path: str) -> Any:
        """The answer about what is there."""
        status, answer = self.ask(path)
        assert status == 200, answer
        return answer

    def done(self, path: str, body: Any = None, status: int = 200) -> Any:
        """The answer of an action."""
        code, answer = self.ask(path, body, "POST")
        assert code == status, answer
        return answer


@pytest.fixture(scope="module")
def served(embedded_services: Services, make_environment: MakeEnvironment) -> Iterator[Served]:
    """One for all tests: each makes jobs of its own."""
    with pytest.MonkeyPatch.context() as patch:
        environment = make_environment(embedded_services, TASK_MODULES=MODULE, WEB_TOKEN=TOKEN)
        for name, value in environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        # The emulators answer a receive from all they have, without waiting.
        patch.setattr("pipeline.deadletters.queuescan.WAIT", 0)
        # A busy machine is no service that is away.
        for name in ("live.READ_TIMEOUT", "causes.TIME", "letters.TIME", "letters.PATIENCE"):
            patch.setattr(f"pipeline.web.{name}", 60.0)
        patch.setattr("pipeline.observe.guard.WRONG_DELAY", 0.0)
        # The next request sees the effect of a test's action.
        for name in ("LIFETIME", "LETTERS_LIFETIME"):
            patch.setattr(f"pipeline.web.live.{name}", 0)
        settings = load_settings(environment)
        registry = stages_of(MODULE)
        list(provision(settings, registry))
        producer = EventProducer(settings, "test")
        with jobs_server(settings, registry, "127.0.0.1", 0) as server:
            server.start()
            try:
                yield Served(World(environment, settings, producer), server)
            finally:
                server.stop()
                producer.close(5)


# ─── Looking ───


def test_the_pipeline_is_shown_with_its_topics_and_queues(served: Served) -> None:
    """Each stage, each topic with its lag, each queue with what waits, and no service is away."""
    views: list[Any] = []

    def is_whole() -> bool:
        views.append(served.got("/pipeline"))
        return bool(views[-1]["away"] == [])

    wait_until(is_whole, "all services to answer in time")
    view = views[-1]
    assert {stage["stage"] for stage in view["stages"]} == {"mend", "polish", "serve", "fix", "paint"}
    assert {topic["topic"] for topic in view["topics"] if topic["lag"] is not None} >= {"broken", "whole"}
    assert [queue["role"] for queue in view["queues"]] == ["tasks", "dlq"]


def test_a_failed_job_is_shown_with_traceback_and_data(served: Served) -> None:
    """A failed job's answer has the exception, its traceback, and the data that caused it."""
    job_id = served.world.give_up(mending.mend, {"what": "<script>"})
    detail = served.got(f"/jobs/{job_id}")
    assert detail["job"]["state"] == "failed"
    assert detail["progress"] == {
        "done": 0,
        "failed": 1,
        "cancelled": 0,
        "total": 2,
        "exact": True,
    }
    (failure,) = detail["failures"]
    assert failure["failure"]["error"] == "builtins.ValueError"
    assert failure["event"]["traceback"] == "Traceback: here"
    assert json.loads(failure["event"]["data"]) == {"what": "<script>"}
    assert detail["away"] == []


def test_jobs_are_found_by_what_is_known_of_them(served: Served) -> None:
    """State, entity, stage, text and age: each finds the job, and another value does not."""
    job_id = served.world.give_up(mending.mend)
    submitted = served.got(f"/jobs/{job_id}")["job"]["submitted_at"]

    def found(query: str) -> bool:
        return job_id in [row["job"]["job_id"] for row in served.got(f"/jobs?{query}")["rows"]]

    assert all(
        map(
            found,
            (
                "state=failed",
                "stage=mend&state=failed",
                f"entity_id={job_id}",
                f"text={job_id}",
                f"text={job_id[4:12].upper()}",
                f"since={submitted - 0.5}",
                f"until={submitted + 0.5}",
            ),
        )
    )
    assert not any(
        map(
            found,
            (
                "state=complete",
                "stage=polish",
                "entity_id=nobody",
                "text=nothing-like-it",
                f"text={quote('ä' * 900)}",
                f"since={submitted + 1}",
                f"until={submitted - 1}",
                f"text={job_id}&state=complete",
            ),
        )
    )


def test_a_dead_letter_is_listed_and_shown(served: Served) -> None:
    """The list has no data, the letter has all: what it holds is told, even what JSON has no word for."""
    job_id = served.world.give_up(mending.mend, "some data")
    (row,) = served.got(f"/dead-letters?job_id={job_id}")["rows"]
    assert (row["error"], row["stage"]) == ("builtins.ValueError", "mend")
    assert "data" not in row
    letter = served.got(f"/dead-letters/{row['id']}")
    assert letter["data"] == '"some data"'
    assert letter["row"] == row
    # Celery's protocol, in values that JSON in UTF-8 has no word for.
    odd = uuid.uuid4().hex
    hostile = json.dumps(
        {
            "headers": {"id": odd, "task": "t", "lang": "py", "n": float("nan"), "deep": [[[]]]},
            "properties": {},
            "body": "[[], {}, null]",
        }
    )
    served.world.dlq.send([OutgoingMessage(body=hostile, group_id=odd, deduplication_id=odd)])
    assert odd in [row["task_id"] for row in served.got("/dead-letters")["rows"]]
    assert served.got(f"/dead-letters/{odd}")["headers"]["n"] == "nan"


def test_what_is_not_there_is_said(served: Served) -> None:
    """A job, a split or a dead letter that is not there is a 404 that names it."""
    job_id = served.world.send(mending.mend, "x")
    served.world.tasks.delete([served.world.take().receipt_handle])
    for path in ("/jobs/nobody", f"/jobs/{job_id}/stages/mend/parts", "/dead-letters/nothing"):
        status, answer = served.ask(path)
        assert status == 404
        assert path.split("/")[2] in answer["error"]
    assert served.ask("/jobs/nobody/redrive", method="POST")[0] == 404


# ─── Acting ───


def test_a_job_is_submitted(served: Served) -> None:
    """Its record is there, its event is on the topic; what could only fail is refused with the reason."""
    with log_lines(access) as lines:
        job = served.done("/jobs", {"start": "mend", "data": "glass", "entity_id": "shop"}, 201)
    assert served.got(f"/jobs/{job['job_id']}")["job"]["entity_id"] == "shop"
    events = [json.loads(message.value or b"") for message in served.world.records("broken")]
    assert "glass" in events
    (line,) = lines
    assert (line["event"], line["action"], line["by"]) == ("web.action", "submit", "bearer")
    for wrong in ({"start": "nowhere", "data": "x"}, {"start": "mend", "data": {"not": "text"}}):
        assert served.ask("/jobs", wrong)[0] == 422


def test_a_jobs_dead_letters_are_redriven(served: Served) -> None:
    """The task is on its queue again and the job runs; the dead letter is gone."""
    job_id = served.world.give_up(mending.mend)
    assert served.done(f"/jobs/{job_id}/redrive") == {
        "counts": {"redriven": 1},
        "troubles": [],
        "finished": True,
    }
    assert served.world.state(job_id) is JobState.RUNNING
    assert served.got(f"/dead-letters?job_id={job_id}")["rows"] == []
    served.world.tasks.delete([served.world.take().receipt_handle])


def test_selected_dead_letters_are_redriven_and_the_others_stay(served: Served) -> None:
    """Only those that were named; without a name nothing is done."""
    chosen, left = served.world.give_up(mending.mend), served.world.give_up(mending.mend)
    (row,) = served.got(f"/dead-letters?job_id={chosen}")["rows"]
    assert served.done("/dead-letters/redrive", {"ids": [row["id"]]})["counts"] == {"redriven": 1}
    assert served.got(f"/dead-letters?job_id={chosen}")["rows"] == []
    assert len(served.got(f"/dead-letters?job_id={left}")["rows"]) == 1
    assert served.ask("/dead-letters/redrive", {"ids": []})[0] == 422
    served.world.tasks.delete([served.world.take().receipt_handle])


def test_a_purge_needs_the_queues_name(served: Served) -> None:
    """With another name nothing is removed; with it what is meant is gone, and its job stays failed."""
    job_id = served.world.give_up(mending.mend)
    queue = served.world.settings.sqs_dlq_url.rsplit("/", 1)[1]
    assert served.ask("/dead-letters/purge", {"queue": "another.fifo", "job_id": job_id})[0] == 422
    assert len(served.got(f"/dead-letters?job_id={job_id}")["rows"]) == 1
    assert served.done("/dead-letters/purge", {"queue": queue, "job_id": job_id})["counts"] == {"purged": 1}
    assert served.got(f"/dead-letters?job_id={job_id}")["rows"] == []
    assert served.world.state(job_id) is JobState.FAILED


def test_a_job_is_replayed_from_a_stage(served: Served) -> None:
    """Its event makes the task again, under its id; with ``again`` a new one, in a job of its own."""
    other = served.done("/jobs", {"start": "mend", "data": "other"}, 201)["job_id"]
    job_id = served.done("/jobs", {"start": "mend", "data": "this"}, 201)["job_id"]
    answer = served.done(f"/jobs/{job_id}/replay?stage=mend")
    assert (answer["sent"], answer["job_id"]) == (1, job_id)
    again = served.done(f"/jobs/{job_id}/replay?stage=mend&again=true")
    assert again["sent"] == 1
    assert again["job_id"] not in (job_id, other)
    assert served.got(f"/jobs/{again['job_id']}")["job"]["state"] == "running"
    tasks = [served.world.take(), served.world.take()]
    assert [json.loads(json.loads(task.body)["body"])[0][0] for task in tasks] == ["this"] * 2
    served.world.tasks.delete([task.receipt_handle for task in tasks])
    assert served.ask(f"/jobs/{job_id}/replay?stage=serve", method="POST")[0] == 422
    assert served.done(f"/jobs/{job_id}/replay?stage=polish")["sent"] == 0


def test_a_job_is_cancelled(served: Served) -> None:
    """Its state says so and the jobs topic is told; a job that has ended stays as it is."""
    job_id = served.done("/jobs", {"start": "mend", "data": "x"}, 201)["job_id"]
    assert served.done(f"/jobs/{job_id}/cancel")["state"] == "cancelled"
    assert job_id in [json.loads(message.value or b"")["job_id"] for message in served.world.records("jobs")]
    failed = served.world.give_up(mending.mend)
    assert served.done(f"/jobs/{failed}/cancel")["state"] == "failed"


# ─── Who may ───


def basic(password: str) -> dict[str, str]:
    """Return the header that a browser sends for a user name and this password."""
    return {"Authorization": "Basic " + base64.b64encode(f"ada:{password}".encode()).decode()}


@pytest.mark.parametrize("path", ["/pipeline", "/jobs", "/dead-letters"])
def test_looking_needs_the_token(served: Served, path: str) -> None:
    """Nobody sees anything of jobs without it."""
    for headers in ({}, basic("wrong"), {"Authorization": "Basic !"}, {"Authorization": "Bearer"}):
        assert served.ask(path, headers=headers)[0] == 401
    assert served.ask(path, headers=basic(TOKEN))[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 404),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 404),
    ],
)
def test_another_site_makes_a_browser_do_nothing(served: Served, sent: dict[str, str], status: int) -> None:
    """A browser that knows the password sends it along; what another site made it send is refused."""
    assert served.ask("/jobs/nobody/cancel", method="POST", headers={**basic(TOKEN), **sent})[0] == status


def test_who_acted_is_logged(served: Served) -> None:
    """The log names the user, the machine, the action and what it was about."""
    job_id = served.done("/jobs", {"start": "mend", "data": "x"}, 201)["job_id"]
    with log_lines(access) as lines:
        assert served.ask(f"/jobs/{job_id}/cancel", method="POST", headers=basic(TOKEN))[0] == 200
    assert lines == [
        {
            "event": "web.action",
            "level": "info",
            "action": "cancel",
            "by": "ada",
            "host": "127.0.0.1",
            "job_id": job_id,
        }
    ]


# ─── Whatever it is asked ───


def test_no_input_breaks_it(served: Served) -> None:
    """Every answer is one that the API says it gives, and none is an error of its own."""
    url = f"{served.server.url}{PREFIX}/openapi.json"
    schema = schemathesis.openapi.from_url(url, headers=BEARER)
    asked = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
    assert len(asked) == 12
    for operation in asked:

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(max_examples=8, deadline=None, derandomize=True, database=None)
        def ask(case: schemathesis.Case[Any]) -> None:
            # Values that a schema cannot restrict (names of stages) may still be refused.
            case.call_and_validate(headers=BEARER, excluded_checks=[positive_data_acceptance])

        ask()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/jobs", b'{"start": "mend", "data": "\\ud800"}'),
        ("/jobs", b'{"start": "\\ud800", "data": 1}'),
        ("/jobs", b'{"start": "mend", "data": NaN}'),
        ("/jobs", b'{"start": "mend", "data": ' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
        ("/jobs", b"\xff\xfe"),
        ("/dead-letters/redrive", b'{"ids": ["\\ud800"]}'),
        ("/dead-letters/redrive", b"[]"),
        ("/dead-letters/purge", b'{"queue": "\\u0000"}'),
    ],
)
def test_bad_bodies_are_told(served: Served, path: str, body: bytes) -> None:
    """A body that is not JSON, or that no event could carry, is refused as the caller's error."""
    status, answer = served.ask(path, body)
    assert status in (400, 422), answer
    assert answer["error"]


def test_a_body_is_bounded(served: Served) -> None:
    """A caller with the token cannot fill the memory either."""
    body = b'{"start": "mend", "data": "' + b"x" * MAX_BODY + b'"}'
    assert served.ask("/jobs", body)[0] == 413


def test_an_entity_may_be_called_anything(served: Served) -> None:
    """Quotes, spaces and other alphabets are text like any other."""
    entity = "Ünï \"cödé\" <b> & 'x' 100%"
    served.done("/jobs", {"start": "mend", "data": "x", "entity_id": entity}, 201)
    rows = served.got(f"/jobs?entity_id={quote(entity)}")["rows"]
    assert [row["job"]["entity_id"] for row in rows] == [entity]


# ─── The commands with --url ───


def test_commands_tell_the_same_with_and_without_a_url(served: Served) -> None:
    """With the page's address and token, listing and showing jobs and dead letters needs no service."""
    job_id = served.world.give_up(mending.mend, "from afar")
    (row,) = served.got(f"/dead-letters?job_id={job_id}")["rows"]
    for command in (
        ["jobs", "list", "--state", "failed", "--newer-than", "1h"],
        ["jobs", "show", job_id],
        # Its first eight random digits: of four, another job of this module may have the same.
        ["jobs", "show", job_id[:12]],
        ["dlq", "list", "--job", job_id],
        ["dlq", "list", "--job", job_id[:12]],
        ["dlq", "show", row["id"]],
    ):
        near = served.world.run(*command, "--json").stdout
        afar = CliRunner().invoke(
            main, [*command, "--json", "--url", served.server.url], env={"WEB_TOKEN": TOKEN}
        )
        assert afar.exit_code == 0, afar.output
        assert [json.loads(line) for line in afar.stdout.splitlines()] == [
            json.loads(line) for line in near.splitlines()
        ]
        shown = CliRunner().invoke(main, [*command, "--url", served.server.url], env={"WEB_TOKEN": TOKEN})
        assert shown.exit_code == 0
        assert job_id in shown.stdout


@pytest.mark.parametrize(
    ("command", "token", "code", "said"),
    [
        (["jobs", "show", "nobody"], TOKEN, 2, "There is no job 'nobody'"),
        (["dlq", "show", "nothing"], TOKEN, 2, "There is no dead letter 'nothing'"),
        (["jobs", "list"], "wrong", 1, "Give WEB_TOKEN"),
    ],
)
def test_what_a_page_refuses_is_told(
    served: Served, command: list[str], token: str, code: int, said: str
) -> None:
    """With the reason that the page gives, and the exit code of the same without --url."""
    result = CliRunner().invoke(main, [*command, "--url", served.server.url], env={"WEB_TOKEN": token})
    assert result.exit_code == code, result.output
    assert said in result.output


def test_an_address_without_a_jobs_page_is_told(served: Served) -> None:
    """Something else that answers there, or nothing, is no job list without jobs."""
    for url in ("http://127.0.0.1:1", served.server.url + "/health", "jobs.example.com"):
        result = CliRunner().invoke(main, ["jobs", "list", "--url", url], env={"WEB_TOKEN": TOKEN})
        assert result.exit_code in (1, 2)
        assert url in result.output


# ─── Services that are away ───


@contextlib.contextmanager
def nowhere(environment: dict[str, str]) -> Iterator[WebServer]:
    """The jobs page of a service whose Kafka, SQS and DynamoDB do not answer."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as taken:
        # Bound and not listening: whoever connects is refused, and nobody else gets the port.
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        away = {
            **environment,
            "KAFKA_BOOTSTRAP_SERVERS": url.removeprefix("http://"),
            "AWS_ENDPOINT_URL_SQS": url,
            "AWS_ENDPOINT_URL_DYNAMODB": url,
            "SQS_TASK_QUEUE_URL": f"{url}/1/tasks.fifo",
            "SQS_DLQ_URL": f"{url}/1/dlq.fifo",
        }
        for name, value in away.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        registry = stages_of(MODULE)
        with jobs_server(load_settings(away), registry, "127.0.0.1", 0) as server:
            server.start()
            try:
                yield server
            finally:
                server.stop()


def test_services_that_are_away_are_named(served: Served) -> None:
    """The pipeline says which and why, dead letters too; jobs and actions are a 503 that says so."""
    with nowhere(served.world.environment) as server:
        apart = Served(served.world, server)
        view = apart.got("/pipeline")
        assert {each["service"] for each in view["away"]} == {"Kafka", "SQS", "DynamoDB"}
        assert all(each["error"] and each["since"] for each in view["away"])
        assert len(view["stages"]) == 5
        status, answer = apart.ask("/jobs")
        assert status == 503
        assert answer["error"]
        letters = apart.got("/dead-letters")
        assert {each["service"] for each in letters["away"]} == {"Kafka", "SQS"}
        assert apart.ask("/jobs/some/cancel", method="POST")[0] == 503
