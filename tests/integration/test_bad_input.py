"""Bad input on a real bridge and worker, and the output of ``pipeline dlq`` for each."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.kafka import EventProducer, OutgoingRecord
from pipeline.services.environment import Services
from pipeline.sqs import MAX_MESSAGE_BYTES
from pipeline.wire import identity
from tests.conftest import MakeEnvironment
from tests.integration import workshop
from tests.integration.shop import Shop, open_shop
from tests.processes import UNSWEPT_BRIDGE

#: The headers of a good event.
GOOD = {"ce_specversion": b"1.0", "ce_id": b"e-1", "ce_source": b"/test", "ce_type": b"orders"}
DEEP = "[" * 10_000 + "]" * 10_000


@dataclass(frozen=True, kw_only=True)
class Bad:
    """Something bad, and what is said of it."""

    #: The whole record's value, or the body of the message.
    value: bytes | None = b'{"key": "bad"}'
    headers: tuple[tuple[str, bytes], ...] = ()
    error: str
    #: Must be in the reason.
    says: str


EVENTS = {
    "invalid JSON": Bad(value=b"{oops", error="InvalidEventError", says="not JSON"),
    "not UTF-8": Bad(value=b'{"key": "\xff"}', error="InvalidEventError", says="not JSON in UTF-8"),
    "10,000 deep": Bad(value=DEEP.encode(), error="InvalidEventError", says="not JSON"),
    "unknown version": Bad(
        headers=tuple({**GOOD, "ce_specversion": b"9.9"}.items()), error="InvalidEventError", says="'9.9'"
    ),
    "a missing attribute": Bad(
        headers=tuple((n, v) for n, v in GOOD.items() if n != "ce_id"),
        error="InvalidEventError",
        says="ce_id: the header is missing",
    ),
    "headers that are not UTF-8": Bad(
        headers=tuple({**GOOD, "ce_type": b"\xff\xfe"}.items()),
        error="InvalidEventError",
        says="header ce_type is not UTF-8",
    ),
    "a batch of events": Bad(
        headers=(("content-type", b"application/cloudevents-batch+json"),),
        error="InvalidEventError",
        says="Send each event in a record of its own",
    ),
    "a header that is slow to search": Bad(
        value=b"{oops", headers=(("x", b"-eyJ" * 200_000),), error="InvalidEventError", says="not JSON"
    ),
    "too large for SQS": Bad(
        value=json.dumps({"key": "x" * (MAX_MESSAGE_BYTES - 9)}).encode(),
        error="MessageRefusedError",
        says="SQS takes 1048576",
    ),
}
#: Events that become tasks, which the stage's schema then refuses.
UNFIT = {
    "of another schema": Bad(
        value=b"[1, 2]", error="pipeline.errors.InvalidInputError", says="the data is not Order"
    ),
    "without a key of the schema": Bad(
        value=b'{"do": "succeed"}', error="pipeline.errors.InvalidInputError", says="key: Field required"
    ),
}


def message(task: str, body: str = "[[], {}, {}]", **headers: object) -> bytes:
    """A Celery message as a client writes it."""
    given = {"body": body, "headers": {"id": f"id-of-{task}", "task": task, **headers}, "properties": {}}
    return json.dumps(given).encode()


HEADER = {
    "job_id": "j",
    "stage": "nowhere",
    "role": "run",
    "event_source": "s",
    "event_id": "e",
    "entity_id": "n",
    "topic": "t",
    "partition": 0,
    "offset": 0,
    "submitted_at": 1.0,
}
MESSAGES = {
    "no JSON": Bad(value=b"hello", error="pipeline.errors.InvalidInputError", says="not JSON"),
    "no message": Bad(
        value=b'{"order": 1}', error="pipeline.errors.InvalidInputError", says="body: Field required"
    ),
    "a message 10,000 deep": Bad(
        value=DEEP.encode(), error="pipeline.errors.InvalidInputError", says="not JSON"
    ),
    "a body 10,000 deep": Bad(
        value=message("make", f"[[{DEEP}], {{}}, {{}}]"),
        error="pipeline.errors.InvalidInputError",
        says="not JSON",
    ),
    "a header of another version": Bad(
        value=message("make", pipeline={"version": 9}),
        error="pipeline.errors.InvalidInputError",
        says="not of this version: job_id: Field required; stage",
    ),
    "an eta that is none": Bad(
        value=message("tests.integration.workshop.note", eta="soon"),
        error="celery.exceptions.InvalidTaskError",
        says="soon",
    ),
    "an unregistered task": Bad(
        value=message("no.such.task"), error="celery.exceptions.NotRegistered", says="'no.such.task'"
    ),
    "an unknown stage": Bad(
        value=message("nowhere", id=identity.task_id("s", "e", "nowhere", None), pipeline=HEADER),
        error="celery.exceptions.NotRegistered",
        says="'nowhere'",
    ),
}


@pytest.fixture(scope="module")
def letters(
    embedded_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[dict[str, Any]]]:
    """All of it was taken in, each followed by something good, and that was handled; the dead letters."""
    folder = tmp_path_factory.mktemp("bad")
    with open_shop(embedded_services, make_environment, folder, UNKNOWN_TASK_SECONDS="1") as shop:
        with shop.log_file.open("ab") as log:
            bridge = shop.children.start(UNSWEPT_BRIDGE, environment=shop.environment, output=log)
        worker = shop.start()
        emit(shop, [*EVENTS.values(), *UNFIT.values()])
        for number, bad in enumerate(MESSAGES.values()):
            assert bad.value is not None
            shop.send_raw(bad.value.decode())
            shop.delay("note", f"after-message-{number}")
        for number in range(len(EVENTS) + len(UNFIT)):
            shop.wait_line(f"after-event-{number}", "end")
        for number in range(len(MESSAGES)):
            shop.wait_line(f"after-message-{number}", "note")
        count = len(EVENTS) + len(UNFIT) + len(MESSAGES)
        found: list[dict[str, Any]] = []

        def all_there() -> bool:
            found[:] = told(shop, "dlq", "export")
            return len(found) >= count

        shop.wait(all_there, f"{count} dead letters")
        shop.wait_empty()
        for letter in found:
            assert told(shop, "dlq", "show", letter["id"], "--json") == [letter]
            assert letter["reason"][:40] in run(shop, "dlq", "show", letter["id"])
        assert run(shop, "dlq", "list").count("\n") == len(found) + 1
        yield found
        assert shop.stop(worker) == shop.stop(bridge) == 0


def emit(shop: Shop, bad: list[Bad]) -> None:
    """Each with a good one behind it on its partition."""
    topic = shop.settings.topic(workshop.make.consumes)
    records = []
    for number, each in enumerate(bad):
        good = json.dumps({"key": f"after-event-{number}"}).encode()
        records += [
            OutgoingRecord(topic=topic, key=b"ada", value=each.value, headers=each.headers),
            OutgoingRecord(topic=topic, key=b"ada", value=good, headers=()),
        ]
    producer = EventProducer(shop.settings, "test")
    try:
        assert producer.emit(records, 30) == [None] * len(records)
    finally:
        producer.close(5)


def run(shop: Shop, *arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, env=shop.environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def told(shop: Shop, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(shop, *arguments).splitlines()]


@pytest.mark.parametrize("what", [*EVENTS, *UNFIT, *MESSAGES])
def test_bad_input_is_named_kept_and_skipped(letters: list[dict[str, Any]], what: str) -> None:
    """A dead letter with its class and its reason, and all that it was; what came behind it was handled."""
    place = "kafka" if what in EVENTS else "sqs"
    bad = {**EVENTS, **UNFIT, **MESSAGES}[what]
    fitting = [
        letter
        for letter in letters
        if (letter["place"], letter["error"]) == (place, bad.error) and bad.says in letter["reason"]
    ]
    whole = None if bad.value is None else bad.value.decode(errors="replace")
    kept = [letter for letter in fitting if letter["data"] == whole or what in MESSAGES]
    assert kept, [(each["place"], each["error"], each["reason"][:200]) for each in letters]
