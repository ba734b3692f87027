"""One log line when the control plane is lost and one when it is back, and a count of what was dropped."""

from pipeline.errors import ServiceUnavailableError
from pipeline.transport import reach as reach_module
from pipeline.transport.reach import Reach
from tests.loglines import log_lines

AWAY = ServiceUnavailableError("Kafka is away")


def test_one_line_a_change() -> None:
    """Thousands of losses of any part make one line; the return of the last part makes the other."""
    reach = Reach()
    with log_lines(reach_module) as logs:
        for _ in range(1000):
            reach.answered("events", AWAY, events=2)
            reach.lost("commands", AWAY)
        reach.found("commands")
        reach.answered("events", None, events=2)
        reach.answered("events", None, events=2)
    assert [line["event"] for line in logs] == ["control.unreachable", "control.reachable_again"]
    assert logs[1]["dropped_events"] == 2000
