"""Above a rate a worker sends the task events of a share of its jobs: it follows the rate and never flaps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.celery import make_app
from pipeline.control.taskcounts import FEWEST
from pipeline.telemetry import metrics
from pipeline.wire.taskmessage import TaskHeader
from pipeline.worker.dispatcher import Dispatcher
from pipeline.worker.sample import (
    ADAPT_EVERY,
    CHOSEN_TOGETHER,
    RATE_OVER,
    ROOM,
    Sample,
    next_share,
    sample_key,
)
from tests.builders import pipeline_header

MOST = 100.0


#: Looks at the rate in the time that it is of.
MINUTE = round(RATE_OVER / ADAPT_EVERY)


class Load:
    """A sample under a load of tasks, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sample = Sample(MOST, clock=lambda: self.now)

    def run(self, rate: float, looks: int = 1) -> list[int]:
        """Take tasks at this rate until so many looks; return N of the share of one in N after each."""
        shares = []
        for _ in range(looks):
            for number in range(round(rate * ADAPT_EVERY)):
                self.sample.take(str(number))
            self.now += ADAPT_EVERY
            self.sample.adapt()
            shares.append(self.sample.one_in)
        return shares


def test_up_to_the_rate_all_jobs_are_shown() -> None:
    """Nothing is left out where a reader keeps up."""
    load = Load()
    assert set(load.run(0) + load.run(MOST, 2 * MINUTE)) == {1}
    assert load.sample.weight("any job") == 1


def test_above_it_the_share_follows_the_rate() -> None:
    """It falls within a minute, step by step, and rises in the minute after."""
    load = Load()
    falling, rising = load.run(900, 2 * MINUTE), load.run(1, 2 * MINUTE)
    assert falling == sorted(falling)
    assert set(falling[MINUTE - 1 :]) == {16}
    assert rising == sorted(rising, reverse=True)
    assert set(rising[MINUTE:]) == {1}


def test_a_burst_hides_nothing() -> None:
    """Flower catches up after it."""
    assert set(Load().run(900) + Load().run(0, MINUTE)) == {1}


@pytest.mark.parametrize(("busy", "idle"), [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_a_load_that_comes_in_bursts_has_one_share(busy: int, idle: int) -> None:
    """Whatever its rhythm: it does not change with each burst."""
    load = Load()
    shares = [share for _ in range(60) for share in load.run(900, busy) + load.run(0, idle)]
    assert len(set(shares[MINUTE:])) == 1


@given(st.floats(min_value=0, max_value=1e9), st.floats(min_value=1, max_value=1e6))
def test_the_share_is_the_largest_that_fits(rate: float, most: float) -> None:
    """From all jobs on: a power of two, within the rate, and no smaller than it must be."""
    share = next_share(1, rate, most)
    assert share & (share - 1) == 0
    assert rate <= most * share or share == FEWEST
    assert share == 1 or rate > most * share / 2


@given(
    st.floats(min_value=0, max_value=1e6),
    st.lists(st.floats(min_value=ROOM + 0.01, max_value=1.0), min_size=3, max_size=30),
)
def test_at_a_steady_rate_the_share_never_goes_back(rate: float, noise: list[float]) -> None:
    """Whatever it was before, and although no rate is quite steady: it may rise, and never falls again."""
    for before in (1, 8, FEWEST):
        shares = [next_share(before, rate, MOST)]
        for each in noise:
            shares.append(next_share(shares[-1], rate * each, MOST))
        assert shares == sorted(shares, reverse=True)


@given(st.lists(st.floats(min_value=0, max_value=2_000), max_size=40))
def test_the_rate_that_is_shown_stays_below_the_most(rates: list[float]) -> None:
    """From the next look at the rate on."""
    one_in = 1
    for rate in rates:
        one_in = next_share(one_in, rate, MOST)
        assert rate / one_in <= MOST


def test_a_job_is_shown_by_every_worker_or_by_none() -> None:
    """Two workers with one share choose the same jobs, and a smaller share's are among a greater one's."""
    ids = [f"job-{number}" for number in range(4_000)]
    shown: dict[int, set[str]] = {}
    for one_in in (1, 2, 4, 8):
        chosen = []
        for _ in range(2):
            sample = Sample(MOST)
            sample.one_in = one_in
            chosen.append({each for each in ids if sample.weight(each) == one_in})
            assert all(sample.weight(each) == 0 for each in ids if each not in chosen[-1])
        assert chosen[0] == chosen[1]
        shown[one_in] = chosen[0]
        assert len(chosen[0]) == pytest.approx(len(ids) / one_in, rel=0.2)
    assert shown[8] < shown[4] < shown[2] < shown[1]


def test_the_choice_is_the_same_in_every_version() -> None:
    """Workers of two versions run side by side: a change of the function needs an ADR."""
    sample = Sample(MOST)
    sample.one_in = 4
    assert [number for number in range(20) if sample.weight(f"job-{number}")] == [0, 3, 5, 7, 15, 16]


def test_any_id_is_in_or_out() -> None:
    """An id may be any text that JSON holds."""
    sample = Sample(MOST)
    sample.one_in = 2
    assert {sample.weight(each) for each in ("", "\ud800", "ä" * 300, "7")} <= {0, 2}


def test_a_stages_task_is_chosen_by_its_job_and_a_plain_one_by_its_root() -> None:
    """All tasks of a job have the same key; each stage's task has a root of its own."""
    headers = {"id": "t", "root_id": "r"}
    header = TaskHeader.model_validate(pipeline_header(job_id="j"))
    assert sample_key(headers, header) == "j"
    assert sample_key(headers, None) == "r"
    assert sample_key({"id": "t", "root_id": None}, None) == sample_key({"id": "t"}, None) == "t"


@pytest.mark.parametrize(("ordinal", "by_itself"), [(0, 0), (CHOSEN_TOGETHER - 1, 0), (CHOSEN_TOGETHER, 1)])
def test_of_a_large_split_or_group_each_task_is_chosen_by_itself(ordinal: int, by_itself: int) -> None:
    """One job with a million parts would be all that is shown, or nothing of it; its first parts are."""
    part = {"split_id": "s", "ordinal": ordinal, "total": 1_000_000}
    header = TaskHeader.model_validate(pipeline_header(job_id="j", role="part", part=part))
    assert sample_key({"id": "t", "root_id": "r"}, header) == ("j", "t")[by_itself]
    assert sample_key({"id": "t", "root_id": "r", "group_index": ordinal}, None) == ("r", "t")[by_itself]


def test_the_share_is_a_metric() -> None:
    """It is 1 where all jobs are shown."""
    load = Load()
    load.run(900, MINUTE)
    assert b"pipeline_task_events_share 0.0625" in metrics.exposition()
    load.run(0, MINUTE)
    assert b"pipeline_task_events_share 1.0" in metrics.exposition()


def test_the_app_sends_events_through_the_dispatcher_that_leaves_some_out() -> None:
    """Celery's own would send that a task was received whose other events are left out."""
    assert issubclass(make_app().events.Dispatcher, Dispatcher)
