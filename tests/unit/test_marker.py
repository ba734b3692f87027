"""Markers travel as Celery messages in the group of the tasks that they are about."""

import json

import pytest

from pipeline.errors import InvalidInputError
from pipeline.transport.envelope import open_envelope
from pipeline.wire.marker import MARKER, Marker


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
