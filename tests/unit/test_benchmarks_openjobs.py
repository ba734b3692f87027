"""A pass over many open jobs, simulated: each is looked at once, by few requests and slowly enough."""

from benchmarks import openjobs
from pipeline.deadletters.openjobs import LEAST, MOST, PAGE
from pipeline.jobs.table import GET_BATCH
from pipeline.settings import FEWEST_SHARDS


def test_few_jobs_take_a_known_number_of_requests() -> None:
    """One each; of each page one for each partition of the index and their number; records."""
    jobs = 1_800
    (row,) = openjobs.run(jobs, known=jobs, rtt=5.0)
    assert (row["jobs"], row["looked_at"]) == (jobs, jobs)
    # A run of half a minute at the least pace; the benchmark reads after each, too, how far the pass is.
    runs = jobs / (LEAST * 30)
    assert row["requests"] == jobs + jobs / PAGE * (FEWEST_SHARDS + 1) + jobs / GET_BATCH + 3 * runs
    assert row["jobs_a_second_in_runs"] == LEAST


def test_very_many_jobs_take_no_more_than_their_share_of_reads() -> None:
    """A tenth of what a new table takes, also where a pass has far too many jobs and the table is fast."""
    (row,) = openjobs.run(4_000, known=10_000_000, rtt=0.0)
    assert row["jobs_a_second_in_runs"] == MOST
    assert row["read_units_a_second_in_runs"] < 12_000 / 10
