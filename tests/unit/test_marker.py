"""Markers travel as Celery messages in the group of the tasks that they are about."""

import json

import pytest

from pipeline.errors import InvalidInputError
from pipeline.jobs import JobStore
from pipeline.jobs.table import Table
from pipeline.transport.envelope import open_envelope
from pipeline.wire.marker import MARKER, Marker
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB


def test_a_marker_is_a_celery_message_in_its_group() -> None:
    """A worker of any version can read it; its id is its deduplication id."""
    marker = Marker.new("j")
    message = marker.message("group", "slow.fifo")
    sqs = message.to_sqs()
    headers = open_envelope(sqs["body"]).payload["headers"]
    assert (headers["task"], message.queue) == (MARKER, "slow.fifo")
    assert (sqs["group_id"], sqs["deduplication_id"]) == ("group", marker.id)
    assert json.loads(message.body)[:2] == [[], {}]
    assert Marker.read(headers) == marker
    assert Marker.new("j") != marker


@pytest.mark.parametrize(
    "changes",
    [{"marker_job": None}, {"marker_job": ""}, {"marker_job": "j" * 129}, {"marker_job": 1}, {"id": "x#y"}],
)
def test_headers_that_are_no_markers_are_refused(changes: dict[str, object]) -> None:
    """They become parts of a key."""
    headers = dict(Marker.new("j").message("g", "q.fifo").headers) | changes
    with pytest.raises(InvalidInputError):
        Marker.read(headers)


def test_received_markers_are_found() -> None:
    """All of several, or none."""
    table = Table("jobs", lambda: FAKE)  # type: ignore[arg-type,return-value]
    store = JobStore(builders.settings(), table=table)
    one, two = Marker.new("j"), Marker.new("j")
    assert not store.markers.received([one])
    store.markers.record([one])
    store.markers.record([one])
    assert store.markers.received([one])
    assert not store.markers.received([one, two])
    store.markers.record([two])
    assert store.markers.received([one, two])


FAKE = FakeDynamoDB()
