"""``pipeline submit`` and ``pipeline jobs``: refusals before any service is asked, and output."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.cli.jobview import in_order
from pipeline.jobs import FailedTask, JobPlan, JobStore, NewJob, PartRef, StageProgress
from pipeline.jobs.table import Table
from pipeline.settings import Settings
from tests.fakes.dynamodb import FakeDynamoDB
from tests.ownstages import stages_of

ENVIRONMENT = {
    "SERVICE_NAME": "shop",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "KAFKA_CONSUMER_GROUP": "shop",
    "SQS_TASK_QUEUE_URL": "http://127.0.0.1:1/1/tasks.fifo",
    "SQS_DLQ_URL": "http://127.0.0.1:1/1/dlq.fifo",
    "TASK_MODULES": "pipeline.demo.documents",
}


@pytest.fixture(autouse=True)
def stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that TASK_MODULES names, and none of other tests."""
    monkeypatch.setattr("pipeline.author.loading.REGISTRY", stages_of(ENVIRONMENT["TASK_MODULES"]))


def run(*arguments: str, text: str = "", **variables: str | None) -> Result:
    """A command and what it answers; no service listens where its environment points."""
    return CliRunner().invoke(main, arguments, input=text, env={**ENVIRONMENT, **variables})


def test_a_sweep_without_sqs_is_refused() -> None:
    """Exit code 2, and what to look at instead: where the bridge runs the stages nothing is to be swept."""
    result = run("jobs", "sweep", USE_SQS_TASK_PROCESSING="false")
    assert result.exit_code == 2
    assert "USE_SQS_TASK_PROCESSING is false" in result.stderr
    assert "pipeline monitor kafka" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["extract"], "Give either --data JSON or --file PATH"),
        (["extract", "--data", "1", "--file", "x"], "Give either --data JSON or --file PATH"),
        (["extrct", "--data", "{}"], "No stage is called 'extrct'"),
        (["extrct", "--data", "{}"], "Stages: analyse, extract, summarise. Topics: document-analysed,"),
        (["document-summarised", "--data", "{}"], "none consumes a topic of that name"),
        (["extract", "--data", "{'path': 1}"], "--data: the value is not JSON"),
        (["extract", "--data", ""], "--data: the value is not JSON"),
        (["extract", "--data", '{"pth": "x"}'], "path: Field required"),
        (["extract", "--data", "{}", "--entity", "a\nb"], "--entity: the entity 'a\\nb' cannot be a key"),
        (["extract", "--data", "{}", "--key", ""], "--key: the key has 0 characters"),
        (["extract", "--file", "-", "--key", "x"], "--key names one job: give its data with --data"),
        (["extract", "--data", "{}", "--entity", ""], "--entity: the entity is empty"),
        (["extract", "--file", "/nowhere/at all"], "--file /nowhere/at all cannot be read"),
        (["extract", "--data", "{}", "--timeout", "-1"], "--timeout"),
        ([], "Missing argument 'STAGE|TOPIC'"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], said: str) -> None:
    """Exit code 2, and one message with the value and the mend; nothing is submitted."""
    result = run("submit", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_one_bad_line_submits_none(tmp_path: Path) -> None:
    """A file is taken whole or not at all, and each bad line is named; blank lines are none."""
    file = tmp_path / "some.jsonl"
    file.write_bytes(b'{"path": "a"}\n\nnot json\n{"path": 7}\r\n')
    result = run("submit", "extract", "--file", str(file))
    assert result.exit_code == 2
    assert "Nothing was submitted" in result.stderr
    assert "line 3: the value is not JSON" in result.stderr
    assert "line 4: " in result.stderr
    assert "line 1:" not in result.stderr
    assert "line 2:" not in result.stderr


def test_many_bad_lines_are_counted() -> None:
    """A file of the wrong kind does not fill the screen."""
    result = run("submit", "extract", "--file", "-", text="x\n" * 1000)
    assert "and 995 more" in result.stderr
    assert len(result.stderr.splitlines()) < 15


def test_an_empty_file_is_refused() -> None:
    """Submitting nothing is a mistake, not a success."""
    result = run("submit", "extract", "--file", "-", text="\n\n")
    assert result.exit_code == 2
    assert "nothing to submit" in result.stderr


@pytest.mark.parametrize("arguments", [["submit", "extract", "--data", "{}"], ["jobs", "list"]])
def test_missing_settings_are_all_named(arguments: list[str]) -> None:
    """Exit code 2, with every variable that is missing."""
    result = run(*arguments, SERVICE_NAME=None, SQS_DLQ_URL=None)
    assert result.exit_code == 2
    assert "Not set in the environment: SERVICE_NAME, SQS_DLQ_URL" in result.stderr


def test_task_modules_that_are_missing_are_named() -> None:
    """A stage cannot be found where nobody looks."""
    result = run("submit", "extract", "--data", "{}", TASK_MODULES="nowhere")
    assert result.exit_code == 2
    assert "TASK_MODULES names 'nowhere'" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["submit"], ["jobs"], *(["jobs", name] for name in ("list", "show", "wait", "cancel"))],
    ids=" ".join,
)
def test_help_needs_no_settings(arguments: list[str]) -> None:
    """--help works anywhere, and each command shows how it is used."""
    result = CliRunner().invoke(main, [*arguments, "--help"], env=dict.fromkeys(ENVIRONMENT))
    assert result.exit_code == 0
    assert "Examples:" in result.stdout or arguments == ["jobs"]


@pytest.mark.parametrize(
    "arguments", [["list", "--state", "lost"], ["list", "--limit", "0"], ["wait"], ["show"], ["cancel"]]
)
def test_bad_options_are_refused(arguments: list[str]) -> None:
    """Exit code 2."""
    assert run("jobs", *arguments).exit_code == 2


def test_stages_are_shown_in_the_order_of_their_work() -> None:
    """Finished stages come first, then started ones, then waiting ones."""
    given = [
        ("mail", "waiting", None),
        ("bill", "running", None),
        ("price", "done", 5.0),
        ("check", "done", 2.0),
        ("audit", "failed", None),
    ]
    stages = [
        StageProgress(stage=name, state=state, done=0, failed=0, total=1, finished_at=finished)
        for name, state, finished in given
    ]
    assert [each.stage for each in in_order(stages)] == ["check", "price", "audit", "bill", "mail"]


def test_many_failures_do_not_fill_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person sees the first of what failed and that there is more; a program gets all of it."""
    monkeypatch.setattr("pipeline.cli.jobs.JobStore", _store_with_failures)
    shown = run("jobs", "show", "j").stdout
    assert shown.count("failed, attempts 3") == 20
    assert shown.endswith("and more: --json has all of them\n")
    assert len(json.loads(run("jobs", "show", "j", "--json").stdout)["failures"]) == 30


IDS = ("3f0c3c1e-5a44", "3f0c9999-5a44", "77777777-5a44")


def _store_with_jobs(settings: Settings) -> JobStore:
    """Three jobs; the ids of two start with the same characters."""
    wire = FakeDynamoDB()
    store = JobStore(settings, table=Table("jobs", lambda: wire))  # type: ignore[arg-type,return-value]
    plan = JobPlan(stages={"a": ("a",)})
    jobs = [
        NewJob(job_id=job_id, entity_id="e", topic="t", plan=plan, submitted_at=time.time() - 9)
        for job_id in IDS
    ]
    store.records.open(jobs)
    return store


@pytest.mark.parametrize("text", ["7777", "77777777", IDS[2]])
def test_a_job_is_named_by_the_beginning_of_its_id(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """As the jobs page shows it; 4 characters are enough when no other id starts so."""
    monkeypatch.setattr("pipeline.cli.jobs.JobStore", _store_with_jobs)
    assert json.loads(run("jobs", "show", text, "--json").stdout)["job_id"] == IDS[2]


@pytest.mark.parametrize("command", [["show"], ["wait"], ["cancel", "--yes"]])
def test_an_ambiguous_beginning_lists_the_jobs_it_may_be(
    monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """Exit code 2, and nothing is done to either of them."""
    monkeypatch.setattr("pipeline.cli.jobs.JobStore", _store_with_jobs)
    result = run("jobs", *command, "3f0c")
    assert result.exit_code == 2
    assert "2 jobs have an id that starts with '3f0c'" in result.stderr
    assert all(job_id in result.stderr for job_id in IDS[:2])
    assert IDS[2] not in result.stderr
    for text in ("777", "8888"):
        result = run("jobs", *command, text)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"There is no job '{text}'" in result.stderr


def _store_with_failures(settings: Settings) -> JobStore:
    """A job with 30 parts, all of them dead letters."""
    wire = FakeDynamoDB()
    store = JobStore(settings, table=Table("jobs", lambda: wire))  # type: ignore[arg-type,return-value]
    plan = JobPlan(stages={"a": ("a",)})
    store.records.open([NewJob(job_id="j", entity_id="e", topic="t", plan=plan, submitted_at=1.0)])
    store.tasks.fail(
        [
            FailedTask(
                ref=PartRef(job_id="j", stage="a", split_id="s", ordinal=ordinal, total=30),
                task_id="task",
                error="ValueError",
                message="no",
                attempts=3,
                failed_at=1.0,
                generation=0,
            )
            for ordinal in range(30)
        ]
    )
    return store
