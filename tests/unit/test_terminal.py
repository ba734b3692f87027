"""What a command prints for people: whoever wrote what it shows, it steers no terminal."""

from dataclasses import fields
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.cli.dlqview import table_of
from pipeline.cli.monitorview import print_kafka, print_sqs
from pipeline.deadletters import DeadLetter
from pipeline.web.model import Away, LetterList
from tests.unit.test_deadletters import letter

#: Sets a window's title, clears the screen, begins a command in eight bits, and a line of its own.
HOSTILE = "x\x1b]0;owned\x07\x1b[2J\x9b2J\nroot\ud800"


def hostile(*names: str, **others: Any) -> dict[str, Any]:
    """A view whose texts are hostile."""
    return {name: name + HOSTILE for name in names} | others


def told(printed: str) -> str:
    """What was printed, once it is seen to hold no more than text and lines."""
    assert "owned" in printed
    assert all(each.isprintable() or each == "\n" for each in printed), repr(printed)
    return printed


def test_a_list_of_dead_letters_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Each column of a letter that anybody may have sent; it stays one line."""
    texts = [each.name for each in fields(DeadLetter) if each.type in (str, str | None)]
    assert {"job_id", "part", "id", "stage"} <= set(texts)
    table_of([letter(**hostile(*texts))])
    printed = told(capsys.readouterr().out)
    assert len(printed.splitlines()) == 2
    assert "job_id" in printed


def test_a_monitor_of_kafka_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Anybody who may consume joins a group under a name of their own."""
    partition = {"partition": 0, "leader": 1, "replicas": [1], "isr": [1], "low": 0, "high": 1}
    topic = hostile("name", config=hostile("value"), partitions=[partition], messages=[hostile("key")])
    lag = hostile("topic", "member", partition=0, low=0, high=1, committed=None, lag=1)
    member = hostile("client_id", "host", partitions=[0])
    group = hostile("name", "state", lag=1, members=[member], partitions=[lag])
    view = {"brokers": {1: "broker" + HOSTILE}, "topics": [topic], "groups": [group]}
    for brief in (True, False):
        print_kafka(view, brief=brief)
        told(capsys.readouterr().out)


def test_a_monitor_of_sqs_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A sample shows messages that anybody may have sent."""
    sample = hostile("message_id", "task", "job_id", age_seconds=1, attempts=1, attributes=hostile("reason"))
    found = {"sample": [sample], "attempts_histogram": {1: 1}}
    queue = hostile("name", "role", available=1, in_flight=0, delayed=0)
    print_sqs({"at": 0, "queues": [queue], "dlq": {"depth": 1, "trend": None, **found}, "live": found})
    told(capsys.readouterr().out)


def test_what_is_away_is_told_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A jobs page says it; the address may be another's."""
    away = Away(service="SQS", error="away" + HOSTILE, since=0)
    page = LetterList(rows=[], complete=True, unseen=0, away=[away], taken_at=0)
    monkeypatch.setattr("pipeline.cli.dlq.Remote.letters", lambda *_: page)
    told(CliRunner().invoke(main, ["dlq", "list", "--url", "http://127.0.0.1:1"]).stderr)
