"""The sweep takes its pass over the open jobs at a pace that fits their number, and rests after it."""

from typing import Any

import pytest

from pipeline.deadletters.openjobs import LEAST, MOST, MOST_JOBS, PAGE, WITHIN, OpenJobs, pace
from pipeline.jobs import Job, JobPage, JobPlan, JobState, JobStore, Pass
from pipeline.jobs.table import Table
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

SINCE = 1000.0
#: The bridge's: half a minute each minute.
RUN, EVERY = 30.0, 60.0


class World:
    """Open jobs, a table that takes its time, and a clock that jumps."""

    def __init__(self, jobs: int) -> None:
        self.now = 1e6
        self.seconds_a_page = 0.01
        self.pages = 0
        self.jobs = [a_job(number) for number in range(jobs)]
        client: Any = FakeDynamoDB()
        table = Table("jobs", lambda: client)
        self.passes = JobStore(builders.settings(), table=table, clock=lambda: self.now).passes
        self.open_jobs = self.process()

    def process(self) -> OpenJobs:
        """A bridge that sweeps."""
        listing: Any = self
        return OpenJobs(listing, self.passes, self.wait, clock=lambda: self.now, wall=lambda: self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def open_before(self, moment: float, *, limit: int, after: str | None) -> JobPage:
        self.now += self.seconds_a_page
        self.pages += 1
        first = int(after or 0)
        end = first + limit
        return JobPage(jobs=self.jobs[first:end], next=str(end) if end < len(self.jobs) else None)

    def run(self) -> list[int]:
        return [int(job.job_id) for jobs in self.open_jobs.run(SINCE, RUN) for job in jobs]

    def whole_pass(self) -> float:
        """Run each minute until the pass ends; the seconds that it took."""
        began = self.now
        while True:
            begun = self.now
            self.run()
            current = self.passes.load()
            assert current is not None
            if current.after is None:
                return self.now - began
            self.now = begun + EVERY

    def rest(self) -> None:
        current = self.passes.load()
        assert current is not None
        self.now += current.worked


def a_job(number: int) -> Job:
    return Job(
        job_id=str(number),
        state=JobState.RUNNING,
        entity_id="e",
        topic="t",
        plan=JobPlan(stages={}),
        submitted_at=1.0,
        # Every seventh has just changed.
        updated_at=SINCE if number % 7 == 0 else 2.0,
    )


def idle(first: int, end: int) -> list[int]:
    return [number for number in range(first, end) if number % 7]


def test_few_jobs_are_looked_at_slowly() -> None:
    """However fast the table is."""
    world = World(500)
    begun = world.now
    assert world.run() == idle(0, 500)
    assert world.now - begun == pytest.approx(len(idle(0, 500)) / LEAST, rel=0.05)


@pytest.mark.parametrize("jobs", [0, 1, PAGE, PAGE + 1, 800])
def test_few_jobs_are_one_run(jobs: int) -> None:
    """The ends of pages are no ends of jobs."""
    assert World(jobs).run() == idle(0, jobs)


def test_a_pass_over_many_ends_within_the_hour() -> None:
    """At the pace that their number asks for, not faster; each is listed once."""
    jobs = 60_000
    world = World(700)
    world.jobs = (world.jobs * 100)[:jobs]
    world.whole_pass()
    world.rest()
    world.pages = 0
    assert 0.6 * WITHIN < world.whole_pass() < WITHIN
    assert world.pages == jobs // PAGE


def test_the_pace_has_bounds() -> None:
    """A million are within them; more take longer, for the table's sake."""
    assert pace(0) == pace(1000) == LEAST
    assert LEAST < pace(1_000_000) < MOST
    assert MOST_JOBS > 1_000_000
    assert pace(MOST_JOBS * 10) == MOST


def test_a_number_that_grew_is_seen_during_the_pass() -> None:
    """Forty times as many jobs as in the pass before are looked at within the hour, too."""
    world = World(2_000)
    world.whole_pass()
    world.rest()
    world.jobs *= 40
    assert world.whole_pass() < WITHIN


def test_a_slow_table_is_not_waited_for_as_well() -> None:
    """The time that the reads take counts."""
    world = World(900)
    world.seconds_a_page = PAGE / LEAST
    assert world.run() == idle(0, 900)


def test_another_process_goes_on_where_the_last_one_stopped() -> None:
    """A deployment begins no pass anew."""
    world = World(5_000)
    first = world.run()
    world.open_jobs = world.process()
    second = world.run()
    assert first + second == idle(0, first[-1] + 1) + second
    assert first[-1] < second[0] < first[-1] + PAGE


def test_a_run_that_was_cut_short_is_repeated() -> None:
    """A process died in it: what it saw may not have been reported."""
    world = World(5_000)
    for number, _ in enumerate(world.open_jobs.run(SINCE, RUN)):
        if number == 30:
            break
    assert world.run()[:3] == [1, 2, 3]


def test_after_a_pass_it_rests_for_as_long_as_that_worked() -> None:
    """Jobs that wait for hours are not read all the time."""
    world = World(1_500)
    world.whole_pass()
    current = world.passes.load()
    assert current is not None
    assert 40.0 < current.worked < 60.0
    world.now += current.worked - 1.0
    assert world.run() == []
    world.now += 1.0
    assert world.run()


def test_a_pass_that_ended_in_the_future_needs_no_rest() -> None:
    """The clock of the process that ended it was ahead."""
    world = World(10)
    world.passes.save(Pass(began_at=0.0, ended_at=world.now + 1e6, worked=1e6, open_jobs=10))
    assert world.run() == idle(0, 10)


def test_the_last_whole_pass_is_recorded() -> None:
    """Its end and its jobs, until the next one has ended."""
    world = World(5_000)
    world.run()
    begun = world.passes.load()
    assert begun is not None
    assert (begun.open_jobs, begun.ended_at, begun.whole_at) == (0, None, 1e6)
    world.whole_pass()
    whole = world.passes.load()
    assert whole is not None
    assert (whole.open_jobs, whole.whole_at) == (5_000, world.now)
    world.rest()
    world.run()
    again = world.passes.load()
    assert again is not None
    assert (again.open_jobs, again.ended_at, again.took) == (5_000, whole.ended_at, whole.took)


def test_a_person_who_sweeps_sees_all_jobs_now() -> None:
    """Without a pace and a rest, and beside the bridges' pass."""
    world = World(60 * PAGE)
    for _ in range(2):
        assert [int(job.job_id) for jobs in world.open_jobs.all(SINCE) for job in jobs] == idle(0, 60 * PAGE)
    assert world.now - 1e6 < 2.0
    assert world.passes.load() is None


def test_each_job_has_its_turn_to_be_watched() -> None:
    """In order, and no job is passed over for want of room; then they begin anew."""
    world = World(1_000)
    taken: list[int] = []
    room = 0

    def left() -> int:
        return room

    while len(taken) < len(idle(0, 1_000)):
        room = 13
        for jobs in world.open_jobs.next_ones(SINCE, 300, left):
            taken += [int(job.job_id) for job in jobs]
            room -= len(jobs)
            assert room >= 0
    assert taken == idle(0, 1_000)
    room = 13
    assert [int(job.job_id) for job in next(world.open_jobs.next_ones(SINCE, 300, left))][:2] == [1, 2]


def test_none_is_listed_without_room_to_watch_it() -> None:
    """The jobs that are watched take all of it for hours, in an outage."""
    world = World(1_000)
    assert list(world.open_jobs.next_ones(SINCE, 300, lambda: 0)) == []
    assert world.pages == 0
