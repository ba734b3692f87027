"""Each tick of a schedule is fired, once, whatever happens to the processes and their clocks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipeline import cron, every
from pipeline.author.timing import Missed, Timing, ticks
from pipeline.errors import ConfigurationError, ServiceUnavailableError
from pipeline.jobs import JobStore, ScheduleRecord, ScheduleRecords
from pipeline.jobs.table import Table
from pipeline.schedules.schedule import Schedule
from pipeline.schedules.scheduler import LOOK_EVERY, TURN, Scheduler
from pipeline.schedules.status import read_schedules
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

#: Seconds in which SQS drops a second message of a deduplication id.
DEDUPLICATION = 300

#: A full hour, and a tick of every interval here.
BEGAN = 25_200.0 * 71_031


class Killed(BaseException):
    """A process ends here, with nothing cleaned up."""


class Process:
    """A bridge, with a clock of its own."""

    def __init__(self, world: "World", schedules: Sequence[Schedule], ahead: float) -> None:
        self.world, self.ahead = world, ahead
        self.records = JobStore(
            builders.settings(), table=Table("jobs", lambda: world.client), clock=self.clock
        ).schedules
        self.scheduler = Scheduler(self.records, schedules, self.clock)
        self.look_at = 0.0

    def clock(self) -> float:
        return self.world.now + self.ahead

    def look(self) -> None:
        """What the thread does when its wait is over."""
        if self.world.now >= self.look_at:
            self.look_at = self.world.now + self.scheduler.look()


class World:
    """The table of a service, its processes, and what was fired."""

    def __init__(self) -> None:
        self.now = BEGAN
        self.client: Any = FakeDynamoDB()
        self.processes: list[Process] = []
        #: When each tick was fired, by schedule and tick; more than once if it was fired again.
        self.fired: dict[tuple[str, float], list[float]] = {}
        #: Raised at the next firing, before it has an effect and after.
        self.before: BaseException | None = None
        self.after: BaseException | None = None

    @property
    def records(self) -> ScheduleRecords:
        return JobStore(
            builders.settings(), table=Table("jobs", lambda: self.client), clock=lambda: self.now
        ).schedules

    def schedule(self, timing: Timing, name: str = "s") -> Schedule:
        def fire(tick: float) -> None:
            before, self.before = self.before, None
            if before:
                raise before
            self.fired.setdefault((name, tick), []).append(self.now)
            after, self.after = self.after, None
            if after:
                raise after

        return Schedule(name=name, runs=f"stage {name}", timing=timing, fire=fire)

    def start(self, *timings: Timing, ahead: float = 0.0, **named: Timing) -> Process:
        schedules = [self.schedule(each) for each in timings]
        schedules += [self.schedule(timing, name) for name, timing in named.items()]
        self.processes.append(Process(self, schedules, ahead))
        return self.processes[-1]

    def kill(self, process: Process) -> None:
        self.processes.remove(process)

    def run(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            for process in list(self.processes):
                try:
                    process.look()
                except Killed:
                    self.kill(process)

    def ticks(self, name: str = "s") -> list[float]:
        """The ticks that were fired, in seconds since the beginning, in order."""
        return sorted(tick - BEGAN for schedule, tick in self.fired if schedule == name)

    def record(self, name: str = "s") -> ScheduleRecord:
        return self.records.all()[name]


def test_each_tick_is_fired_once_by_one_process() -> None:
    """The others wait for their turn."""
    world = World()
    for _ in range(3):
        world.start(every(10))
    world.run(100)
    assert world.ticks() == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert all(len(times) == 1 for times in world.fired.values())
    assert all(times[0] - tick < 1.5 for (_, tick), times in world.fired.items())


def test_a_new_schedule_has_no_ticks_of_the_past() -> None:
    """Nor has one that came back after a version without it."""
    world = World()
    first = world.start(every(10, missed="all"))
    world.run(25)
    world.kill(first)
    without = world.start(other=every(10))
    world.run(100)
    world.kill(without)
    world.start(every(10, missed="all"))
    world.run(45)
    fired = world.ticks()
    assert fired[:2] == [10, 20]
    assert fired[2] > 125


@pytest.mark.parametrize("missed", ["once", "all", "none"])
def test_the_policy_is_for_what_was_due_while_no_process_ran(missed: Missed) -> None:
    """An hour without bridges; ticks every ten minutes."""
    world = World()
    first = world.start(every(600, missed=missed))
    world.run(700)
    world.kill(first)
    world.now = BEGAN + 3_900
    world.start(every(600, missed=missed))
    world.run(400)
    due = {"once": [3_600], "all": [1_200, 1_800, 2_400, 3_000, 3_600], "none": []}[missed]
    assert world.ticks() == [600, *due, 4_200]
    assert world.record().settled_to == BEGAN + 4_200


def test_many_missed_ticks_are_fired_in_portions() -> None:
    """Each is recorded, and the turn is kept meanwhile."""
    world = World()
    first = world.start(every(1, missed="all"))
    world.run(10)
    world.kill(first)
    world.now += 1_000
    world.start(every(1, missed="all"))
    world.run(60)
    assert world.ticks() == [float(n) for n in range(2, 1_071)]


def test_a_long_outage_costs_one_run() -> None:
    """The last tick of a year is found, without all of them being looked at."""
    world = World()
    first = world.start(cron("0 0 1 1 *"), minutely=cron("* * * * *"))
    world.run(10)
    world.kill(first)
    world.now += 400 * 86_400
    world.start(cron("0 0 1 1 *"), minutely=cron("* * * * *"))
    world.run(20)
    assert len(world.ticks()) == 1
    assert len(world.ticks("minutely")) == 1


def test_a_process_that_dies_leaves_its_tick_to_the_next() -> None:
    """Before it had an effect, and after: then it is fired again within the window of SQS."""
    world = World()
    for _ in range(3):
        world.start(every(60, missed="none"))
    world.run(50)
    world.before = Killed()
    world.run(60)
    assert len(world.processes) == 2
    world.after = Killed()
    world.run(100)
    assert len(world.processes) == 1
    world.run(60)
    assert world.ticks() == [60, 120, 180, 240]
    assert sorted(len(times) for times in world.fired.values()) == [1, 1, 1, 2]
    assert all(times[-1] - times[0] < DEDUPLICATION / 10 for times in world.fired.values())


@settings(max_examples=60, deadline=None, phases=[Phase.generate])
@given(st.data())
def test_no_failover_skips_or_doubles_a_tick(data: st.DataObject) -> None:
    """Processes start and die at any moment, at any step of a firing, and their clocks differ by seconds.

    As long as one fires again within a minute, each tick is fired, in time for SQS to drop a second message.
    """
    world = World()
    timing = every(
        data.draw(st.sampled_from([1, 7, 30, 60])), missed=data.draw(st.sampled_from(["once", "none"]))
    )
    world.start(timing)
    world.run(10)
    for _ in range(data.draw(st.integers(1, 12))):
        match data.draw(st.sampled_from(["start", "kill", "before", "after", "away", "end"])):
            case "start":
                world.start(timing, ahead=data.draw(st.floats(-3, 3)))
            case "kill":
                world.kill(world.processes[0])
            case "before":
                world.before = Killed()
            case "after":
                world.after = Killed()
            case "away":
                world.before = ServiceUnavailableError("away")
            case "end":
                world.processes[0].scheduler.end()
                world.kill(world.processes[0])
        for _ in range(data.draw(st.integers(4, 12))):
            if not world.processes:
                world.start(timing, ahead=data.draw(st.floats(-3, 3)))
            world.run(10, step=data.draw(st.floats(0.5, 2)))
    world.before = world.after = None
    world.start(timing)
    world.run(60)
    began = world.ticks()[0]
    expected = [tick - BEGAN for tick in ticks(timing, BEGAN + began - 1, world.now - 5)]
    assert world.ticks()[: len(expected)] == expected
    assert all(times[-1] - times[0] < DEDUPLICATION / 3 for times in world.fired.values())


def test_a_clock_that_goes_back_fires_nothing_again() -> None:
    """What is recorded stays; the schedule goes on when the clock has caught up."""
    world = World()
    process = world.start(every(10))
    world.run(50)
    process.ahead = -30
    process.look_at = 0
    world.run(60)
    assert world.ticks() == [10, 20, 30, 40, 50, 60, 70, 80]
    assert all(len(times) == 1 for times in world.fired.values())


def test_a_clock_that_jumps_ahead_does_not_stop_a_schedule_for_years() -> None:
    """Its ticks of the future were fired; those of today are fired, too."""
    world = World()
    process = world.start(every(10))
    world.run(15)
    process.ahead = 10 * 365 * 86_400
    process.look_at = 0
    world.run(30)
    world.kill(process)
    world.start(every(10))
    world.run(60)
    today = [tick for tick in world.ticks() if tick < 1_000]
    assert today[0] == 10
    assert today[-3:] == [80, 90, 100]


def test_a_changed_schedule_keeps_what_was_due() -> None:
    """By its former definition up to the change, by the new one from then on."""
    world = World()
    first = world.start(every(10))
    world.run(22)
    world.kill(first)
    world.run(15)
    world.start(every(7))
    world.run(31)
    assert world.ticks()[:3] == [10, 20, 30]
    later = world.ticks()[3:]
    assert later
    assert all(tick % 7 == 0 for tick in later)
    assert min(later) > 37


def test_a_paused_schedule_is_passed_over() -> None:
    """Resumed, it goes on with the next tick."""
    world = World()
    world.start(every(10))
    world.run(25)
    assert world.records.pause("s", paused=True, now=world.now)
    world.run(30)
    assert world.records.pause("s", paused=False, now=world.now)
    world.run(25)
    assert world.ticks() == [10, 20, 60, 70, 80]
    assert not world.records.pause("unknown", paused=True, now=world.now)


def test_a_tick_that_can_never_be_fired_is_recorded() -> None:
    """It does not hold up the next; the error is cut and kept until a tick is fired."""
    world = World()
    world.start(every(10))
    world.run(5)
    world.before = ConfigurationError("x" * 2_000)
    world.run(10)
    record = world.record()
    assert record.tick == BEGAN + 10
    assert record.error is not None
    assert record.error.startswith("ConfigurationError: xxx")
    assert len(record.error) == 500
    world.run(10)
    assert world.ticks() == [20]
    assert world.record().error is None


def test_a_service_that_is_away_delays_a_tick() -> None:
    """It is fired when the service is back."""
    world = World()
    world.start(every(10))
    world.run(5)
    world.before = ServiceUnavailableError("away")
    world.run(12)
    assert world.ticks() == [10]


def test_a_process_that_stood_still_fires_nothing_more() -> None:
    """Its turn ended meanwhile: another process has fired that."""
    world = World()
    stopped = world.start(every(10), other=every(10))
    world.run(5)

    def stand_still(tick: float) -> None:
        world.now += TURN

    schedules = [dataclasses.replace(world.schedule(every(10)), fire=stand_still)]
    schedules.append(world.schedule(every(10), "other"))
    stopped.scheduler._schedules = schedules
    world.run(6)
    assert world.ticks("other") == []


def test_a_clean_end_leaves_the_turn_at_once() -> None:
    """A rolling deployment loses no seconds."""
    world = World()
    first = world.start(every(10))
    world.run(12)
    first.scheduler.end()
    world.kill(first)
    world.start(every(10))
    world.run(2 * LOOK_EVERY)
    assert world.ticks() == [10, 20]
    assert world.fired["s", BEGAN + 20] == [BEGAN + 20]


def test_people_see_when_each_is_due() -> None:
    """And whether a bridge fires it, or why none does."""
    world = World()

    def seen() -> list[tuple[str, str, float | None, float | None]]:
        return [
            (
                each.name,
                each.state,
                each.last_tick and each.last_tick - BEGAN,
                each.next_tick and each.next_tick - BEGAN,
            )
            for each in read_schedules(world.records, world.now)
        ]

    assert seen() == []
    first = world.start(a=every(10), b=every(60))
    world.run(25)
    assert seen() == [("a", "active", 20, 30), ("b", "active", None, 60)]
    world.records.pause("b", paused=True, now=world.now)
    assert seen()[1] == ("b", "paused", None, None)
    world.kill(first)
    world.run(25)
    assert seen()[0] == ("a", "unattended", 20, 30)
    world.start(b=every(60))
    world.run(10)
    assert seen() == [("a", "removed", 20, None), ("b", "paused", None, None)]
