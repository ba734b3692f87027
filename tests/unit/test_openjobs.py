"""The sweep takes as many jobs in a run as its time allows, and rests after a long pass."""

from typing import Any

import pytest

from pipeline.deadletters.openjobs import PAGE, OpenJobs
from pipeline.jobs import Job, JobPage, JobPlan, JobState

SINCE = 1000.0


class World:
    """Open jobs, and a table that takes its time."""

    def __init__(self, jobs: int) -> None:
        self.now = 0.0
        self.seconds_a_page = 1.0
        self.pages = 0
        self.jobs = [a_job(number) for number in range(jobs)]
        listing: Any = self
        self.open_jobs = OpenJobs(listing, clock=lambda: self.now)

    def open_before(self, moment: float, *, limit: int, after: str | None) -> JobPage:
        self.now += self.seconds_a_page
        self.pages += 1
        first = int(after or 0)
        end = first + limit
        return JobPage(jobs=self.jobs[first:end], next=str(end) if end < len(self.jobs) else None)

    def run(self, seconds: float | None = 30.0) -> list[int]:
        return [int(job.job_id) for job in self.open_jobs.idle(SINCE, seconds)]


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


def test_a_run_takes_what_its_time_allows_and_the_next_one_goes_on() -> None:
    """Four times as many where the table is four times as fast."""
    world = World(100 * PAGE)
    assert world.run() == idle(0, 30 * PAGE)
    world.seconds_a_page = 0.25
    assert world.run(10.0) == idle(30 * PAGE, 70 * PAGE)
    assert world.run() == idle(70 * PAGE, 100 * PAGE)


def test_many_jobs_take_a_known_number_of_reads() -> None:
    """One page for each hundred, in runs of half a minute."""
    world = World(100_000)
    world.seconds_a_page = 0.1
    runs = 0
    seen = 0
    while seen < len(idle(0, 100_000)):
        seen += len(world.run())
        runs += 1
    assert (world.pages, runs) == (1_000, 4)


def test_after_a_pass_it_rests_for_as_long_as_that_took() -> None:
    """Jobs that wait for hours are not read all the time."""
    world = World(60 * PAGE)
    world.run()
    world.now += 1000.0
    world.run()
    world.now += 59.0
    assert world.run() == []
    world.now += 1.0
    assert world.run() == idle(0, 30 * PAGE)


def test_a_person_who_sweeps_sees_all_jobs_now() -> None:
    """Without a bound, and without a rest."""
    world = World(60 * PAGE)
    assert [world.run(None) for _ in range(2)] == [idle(0, 60 * PAGE)] * 2


@pytest.mark.parametrize("jobs", [0, 1, PAGE, PAGE + 1])
def test_few_jobs_are_one_run(jobs: int) -> None:
    """The ends of pages are no ends of jobs."""
    assert World(jobs).run() == idle(0, jobs)
