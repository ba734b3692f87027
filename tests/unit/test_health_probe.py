"""Probes: whatever a dependency does, an answer comes in time and says nothing it should not."""

import asyncio
import threading
import time

from pipeline.health.probe import Probe
from pipeline.health.reports import Report, worst


def test_a_dependency_that_hangs_is_unhealthy_in_time() -> None:
    """Who asks is answered after the time-out, and a second one costs no second thread."""
    release, calls = threading.Event(), []

    def hang() -> Report:
        calls.append(1)
        release.wait(20)
        return {"status": "healthy"}

    async def ask_twice() -> list[Report]:
        probe = Probe("Kafka", hang, timeout=0.2)
        return [await probe.report(), await probe.report()]

    started = time.monotonic()
    answers = asyncio.run(ask_twice())
    release.set()
    assert time.monotonic() - started < 5
    assert len(calls) == 1
    expected = {"status": "unhealthy", "error": "Kafka did not answer within 0.2 s"}
    assert answers == [expected, expected]


def test_the_loop_is_never_blocked() -> None:
    """While a report is made other requests are answered."""

    def slow() -> Report:
        time.sleep(0.3)
        return {"status": "healthy"}

    async def others_meanwhile() -> int:
        report = asyncio.ensure_future(Probe("SQS", slow).report())
        turns = 0
        while not report.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns

    assert asyncio.run(others_meanwhile()) > 10


def test_a_report_serves_all_who_ask_within_its_lifetime() -> None:
    """A hundred load balancers cost what one does; after a second it is made anew."""
    calls: list[int] = []

    def count() -> Report:
        calls.append(1)
        return {"status": "healthy"}

    async def ask() -> None:
        probe = Probe("SQS", count, lifetime=0.2)
        await asyncio.gather(*(probe.report() for _ in range(100)))
        assert len(calls) == 1
        await asyncio.sleep(0.25)
        await probe.report()

    asyncio.run(ask())
    assert len(calls) == 2


def test_what_a_strange_error_says_is_not_answered() -> None:
    """An error that is not this project's own may hold a secret: only its class is told."""

    def leak() -> Report:
        raise ValueError("password=hunter2")

    answer = asyncio.run(Probe("Kafka", leak).report())
    assert answer["status"] == "unhealthy"
    assert "ValueError" in answer["error"]
    assert "hunter2" not in str(answer)


def test_the_worst_dependency_decides() -> None:
    """Unhealthy before degraded before healthy."""
    healthy, degraded, unhealthy = ({"status": each} for each in ("healthy", "degraded", "unhealthy"))
    assert worst({"a": healthy, "b": degraded}) == "degraded"
    assert worst({"a": unhealthy, "b": degraded}) == "unhealthy"
    assert worst({"a": healthy}) == "healthy"
