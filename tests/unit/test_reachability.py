"""One log line when the control plane is lost and one when it is back, and a count of what was dropped."""

from pipeline.control import reachability as module
from pipeline.control.reachability import Reachability
from pipeline.errors import ServiceUnavailableError
from tests.loglines import log_lines

AWAY = ServiceUnavailableError("Kafka is away")


def test_one_line_a_change() -> None:
    """Thousands of losses of any part make one line; the return of the last part makes the other."""
    reachability = Reachability()
    with log_lines(module) as logs:
        for _ in range(1000):
            reachability.note_answer("events", AWAY, events=2)
            reachability.mark_lost("commands", AWAY)
        reachability.mark_found("commands")
        reachability.note_answer("events", None, events=2)
        reachability.note_answer("events", None, events=2)
    assert [line["event"] for line in logs] == ["control.unreachable", "control.reachable_again"]
    assert logs[1]["dropped_events"] == 2000
