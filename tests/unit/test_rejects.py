"""Sentry gets events that become no task, or fail where stages run here, like a worker's dead letters."""

import io
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import structlog

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.bridge import rejects as rejects_module
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.rejects import Rejects
from pipeline.bridge.translator import Rejection, Translator
from pipeline.jobs import JobStore
from pipeline.jobs.table import Table
from pipeline.kafka import OutgoingRecord, ReceivedRecord
from pipeline.ledger import Ledger
from pipeline.patience import Patience
from pipeline.telemetry import logs
from pipeline.telemetry.sentry import Sentry
from pipeline.wire.failure import decode_error_event
from pipeline.wire.redaction import LIMIT
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB
from tests.loglines import log_lines

SETTINGS = builders.settings(service_name="post")


class FakeProducer:
    """Takes everything."""

    def __init__(self) -> None:
        self.taken: list[OutgoingRecord] = []

    def emit(self, records: Sequence[OutgoingRecord], timeout: float) -> list[None]:
        self.taken += records
        return [None] * len(records)


@pytest.fixture
def producer() -> FakeProducer:
    return FakeProducer()


@pytest.fixture
def plans() -> KnownPlans:
    registry = Registry()

    @stage(consumes="letters", emits="words", registry=registry)
    def read(letter: str) -> str:
        return letter

    return KnownPlans(registry.routes)


@pytest.fixture
def store() -> JobStore:
    wire: Any = FakeDynamoDB()
    return JobStore(SETTINGS, table=Table("jobs", lambda: wire))


@pytest.fixture
def ledger(store: JobStore, producer: Any) -> Ledger:
    return Ledger(SETTINGS, store, producer, Patience())


@pytest.fixture
def rejects(plans: KnownPlans, ledger: Ledger) -> Rejects:
    return Rejects(SETTINGS, plans, ledger)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what is sent to Sentry."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(Sentry, "report", lambda _, **report: told.append(report))
    return told


RECORD = ReceivedRecord(
    topic="letters", partition=2, offset=7, timestamp_ms=1, key=b"ada", value=b"{}", headers=()
)


def test_a_stage_that_failed_here_is_told(rejects: Rejects, reports: list[dict[str, Any]]) -> None:
    """Once, after its attempts: class, message, traceback; job, stage, entity, attempts and place as tags."""
    failed = Rejection(
        record=RECORD,
        job_id="j1",
        error="builtins.ValueError",
        message="torn",
        stage="read",
        attempts=4,
        traceback="Traceback …",
    )
    rejects.bury([failed])
    (report,) = reports
    assert report == {
        "error": "builtins.ValueError",
        "message": "torn",
        "traceback": "Traceback …",
        "stage": "read",
        "tags": {
            "job_id": "j1",
            "stage": "read",
            "entity_id": "ada",
            "topic": "letters",
            "partition": 2,
            "offset": 7,
            "attempts": 4,
        },
    }


def test_what_is_no_event_is_told(rejects: Rejects, reports: list[dict[str, Any]]) -> None:
    """It has no job and no stage: no tag says otherwise."""
    rejects.bury([Rejection(record=RECORD, error="InvalidEventError", message="not JSON")])
    (report,) = reports
    assert (report["error"], report["stage"]) == ("InvalidEventError", None)
    assert {"job_id", "stage"}.isdisjoint(report["tags"])


EVENT_HEADERS = (
    ("ce_specversion", b"1.0"),
    ("ce_id", b"e-1"),
    ("ce_source", b"/x"),
    ("ce_type", b"t"),
    ("content-type", b"application/json"),
)


def translated(plans: KnownPlans, record: ReceivedRecord) -> Rejection:
    """Return the rejection that a bridge makes of a record."""
    (rejection,) = Translator(SETTINGS, plans, ["letters"]).translate(record)
    assert isinstance(rejection, Rejection)
    return rejection


def test_a_rejected_event_tells_no_secret(
    rejects: Rejects,
    plans: KnownPlans,
    ledger: Ledger,
    store: JobStore,
    producer: FakeProducer,
    reports: list[dict[str, Any]],
) -> None:
    """Its reason quotes the event: in the job's record, the dead letter, the error event, Sentry and the log.

    The event itself stays as it is on the DLQ topic: a redrive needs it.
    """
    value, now = b"password=hunter2 {", int(time.time() * 1000)
    record = replace(RECORD, value=value, headers=EVENT_HEADERS, timestamp_ms=now)
    rejection = translated(plans, record)
    assert rejection.job is not None
    ledger.open([rejection.job])
    with log_lines(rejects_module) as lines:
        rejects.bury([rejection])
    (failure,) = store.listing.failures(rejection.job.job_id)
    letter, error, *_ = producer.taken
    assert letter.value == value
    assert "password=" in failure.message
    event = decode_error_event(error.value)
    told = repr([failure, letter.headers, lines, reports, event and event.reason])
    assert told.count("password=[redacted]") == 5
    assert "hunter2" not in told


@pytest.mark.parametrize("name", ["x", "authorization", "ce_id"])
def test_a_header_that_is_cut_is_said_to_be(
    rejects: Rejects, plans: KnownPlans, producer: FakeProducer, name: str
) -> None:
    """The error event keeps the beginning of a long header; the dead letter keeps it whole."""
    record = replace(RECORD, value=b"{", headers=((name, b"a " * LIMIT),))
    rejects.bury([translated(plans, record)])
    letter, error, *_ = producer.taken
    event = decode_error_event(error.value)
    assert event is not None
    assert event.cut
    assert len(event.headers[name]) <= LIMIT
    assert (name, b"a " * LIMIT) in letter.headers


def hostile(part: str) -> bytes:
    """Return nearly a megabyte of what made a pattern slow, or may."""
    return (part * (1_000_000 // len(part))).encode()


HOSTILE: dict[str, dict[str, Any]] = {
    **{f"header {part}": {"headers": (("x", hostile(part)),)} for part in ("-eyJ", "://:", 'password="')},
    "attribute": {"headers": (("ce_id", hostile("-eyJ")), ("ce_specversion", b"1.0"))},
    "media type": {"headers": (("content-type", hostile("-eyJ")),)},
    "name of a header": {"headers": ((hostile("-eyJ").decode(), b"1"),)},
    "names of attributes": {"headers": tuple((f"ce_{n}", b"1") for n in range(20_000))},
    "many headers": {"headers": tuple((f"password{n}", b"-eyJ") for n in range(20_000))},
    "key": {"key": hostile("-eyJ")},
    "key in no encoding": {"key": hostile("-eyJ") + b"\xff"},
    "value": {"value": hostile("-eyJ")},
    "brackets": {"value": b"[" * 500_000 + b"]" * 500_000},
    "digits": {"value": b'{"n":' + b"9" * 1_000_000 + b"}"},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_no_event_takes_long(rejects: Rejects, plans: KnownPlans, case: str) -> None:
    """One record cannot stop a bridge: the largest takes well below a second, made for it or not.

    A record that is no task is translated, rejected, logged and buried.
    """
    record = replace(RECORD, **({"value": b"{not json"} | HOSTILE[case]))
    written = io.StringIO()
    handler, logger = logging.StreamHandler(written), logging.getLogger(rejects_module.__name__)
    handler.setFormatter(logs.formatter(False))
    logs.configure()
    logger.addHandler(handler)
    began = time.process_time()
    try:
        rejects.bury([translated(plans, record)])
        assert time.process_time() - began < 2
    finally:
        logger.removeHandler(handler)
        structlog.reset_defaults()
    assert len(written.getvalue()) < 20_000
