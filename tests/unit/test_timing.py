"""The ticks of schedules: functions of the schedule alone, through every change of a zone's clock."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery.schedules import crontab
from celery.schedules import schedule as interval
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import StageDefinitionError, Tick, cron, every, stage
from pipeline.author.registry import Registry
from pipeline.author.timing import Timing, read_timing, ticks, timing_of

BERLIN = "Europe/Berlin"

TIMINGS = st.one_of(
    st.integers(1, 200_000).map(every),
    st.tuples(
        st.sampled_from(
            [
                "* * * * *",
                "*/7 * * * *",
                "30 2 * * *",
                "0,30 2 * * *",
                "15 1 * * *",
                "0 * * * *",
                "30 */2 * * *",
                "0 7 * * mon-fri",
                "0 0 1 * *",
                "0 12 13 * fri",
                "5 1-3 * * *",
            ]
        ),
        st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "UTC"]),
    ).map(lambda made: cron(made[0], timezone=made[1])),
)
#: From 2015 to 2031: with clock changes of all of these zones.
MOMENTS = st.floats(1_420_000_000, 1_920_000_000)


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def shown(timing: Timing, begin: str, end: str) -> list[str]:
    found = ticks(timing, at(begin), at(end))
    return [datetime.fromtimestamp(tick, UTC).strftime("%d %H:%M") for tick in found]


@given(TIMINGS, MOMENTS, st.floats(0, 1))
def test_the_next_tick_is_the_same_from_anywhere_before_it(timing: Timing, moment: float, at: float) -> None:
    """So two processes that look at different moments fire the same ticks."""
    tick = timing.next_after(moment)
    assert tick is not None
    assert tick > moment
    assert tick == int(tick)
    between = moment + (tick - moment) * at * 0.999
    assert timing.next_after(between) == tick


@given(TIMINGS)
def test_a_recorded_timing_has_the_same_ticks(timing: Timing) -> None:
    """The next version settles what was due by the one before."""
    known = read_timing(timing.text)
    assert known is not None
    assert known.text == timing.text
    assert known.next_after(1.79e9) == timing.next_after(1.79e9)


def test_a_tick_in_the_skipped_hour_is_due_at_its_end() -> None:
    """Berlin has no 02:30 on 2026-03-29: the tick is at 03:00, 01:00 UTC, and once."""
    daily = cron("30 2 * * *", timezone=BERLIN)
    assert shown(daily, "2026-03-27T12:00", "2026-03-30T12:00") == ["28 01:30", "29 01:00", "30 00:30"]
    twice = cron("0,30 2 * * *", timezone=BERLIN)
    assert shown(twice, "2026-03-28T12:00", "2026-03-29T12:00") == ["29 01:00"]


def test_a_tick_in_the_repeated_hour_is_due_once() -> None:
    """02:30 is twice on 2026-10-25; ticks of each hour keep their distance."""
    daily = cron("30 2 * * *", timezone=BERLIN)
    assert shown(daily, "2026-10-24T12:00", "2026-10-26T12:00") == ["25 00:30", "26 01:30"]
    # From within the second pass, too.
    assert shown(daily, "2026-10-25T01:10", "2026-10-26T12:00") == ["26 01:30"]
    hourly = cron("0 * * * *", timezone=BERLIN)
    found = shown(hourly, "2026-10-24T23:30", "2026-10-25T03:30")
    assert found == ["25 00:00", "25 01:00", "25 02:00", "25 03:00"]


def test_an_interval_has_its_multiples() -> None:
    """Not those since a process started."""
    assert shown(every(timedelta(hours=6)), "2026-01-01T01:00", "2026-01-01T23:00") == [
        "01 06:00",
        "01 12:00",
        "01 18:00",
    ]


def test_celery_s_own_schedules_are_taken() -> None:
    """A crontab's days must both match, as in Celery; with cron one is enough."""
    assert timing_of(interval(90)) == every(90)
    assert timing_of(timedelta(minutes=2)) == timing_of(120) == every(120)
    first_mondays = timing_of(crontab(minute="*/30", hour=7, day_of_month="1-7", day_of_week="mon"))
    assert shown(first_mondays, "2026-01-01T00:00", "2026-03-01T00:00") == [
        "05 07:00",
        "05 07:30",
        "02 07:00",
        "02 07:30",
    ]
    either = cron("0 7 1-2 * mon")
    assert shown(either, "2026-01-01T00:00", "2026-01-07T00:00") == ["01 07:00", "02 07:00", "05 07:00"]


@settings(max_examples=25)
@given(
    minute=st.sets(st.integers(0, 59), min_size=1),
    hour=st.sets(st.integers(0, 23), min_size=1),
    day_of_week=st.sets(st.integers(0, 6), min_size=1),
    day_of_month=st.sets(st.integers(1, 28), min_size=1),
    month_of_year=st.sets(st.integers(1, 12), min_size=1),
)
def test_a_crontab_is_due_when_celery_says_so(**fields: set[int]) -> None:
    """Celery's own next moment after one is ours."""
    now = datetime(2026, 3, 1, 12, 34, 56, tzinfo=UTC)
    theirs: Any = crontab(**fields, nowfun=lambda: now)
    _, delta, _ = theirs.remaining_delta(now)
    expected = (now + delta).replace(tzinfo=UTC)
    assert timing_of(theirs).next_after(now.timestamp()) == expected.timestamp()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: cron("* * * *"), "five fields"),
        (lambda: cron("61 * * * *"), "Bad minute"),
        (lambda: cron("0 0 30 2 *"), "Bad day-of-month"),
        (lambda: cron("* * * * *", timezone="Mars/Base"), "time zone database"),
        (lambda: cron("* * * * *", missed="twice"), "once, all, none"),  # type: ignore[arg-type]
        (lambda: every(0.5), "whole seconds"),
        (lambda: every(float("nan")), "whole seconds"),
        (lambda: timing_of("* * * * *"), "no ticks that every process would know alike"),
        (lambda: timing_of(object()), "no ticks that every process would know alike"),
    ],
)
def test_what_has_no_ticks_is_refused(make: Any, reason: str) -> None:
    """At import, with the fix."""
    with pytest.raises(StageDefinitionError, match=reason):
        make()


def test_a_scheduled_stage_has_a_topic_of_its_own() -> None:
    """It needs no consumes=, and takes the tick."""
    registry = Registry()

    @stage(schedule=every(60), registry=registry)
    def minutely(tick: Tick) -> None: ...

    registry.check()
    assert minutely.consumes == "minutely-ticks"
    tick = Tick(schedule="minutely", at=datetime(2026, 5, 1, tzinfo=UTC))
    assert minutely.load_input(minutely.tick_data(tick)) == tick


def test_a_schedule_whose_ticks_the_stages_cannot_take_is_refused() -> None:
    """Its own stage, or another one on the topic."""
    registry = Registry()

    @stage(schedule=every(60), registry=registry)
    def counted(number: int) -> None: ...

    with pytest.raises(StageDefinitionError, match=r"counted.*2026-01-01T00:00Z.*schedule_data="):
        registry.check()

    registry = Registry()

    @stage(consumes="numbers", schedule=every(60), schedule_data=lambda tick: tick.at.day, registry=registry)
    def daily(number: int) -> None: ...

    registry.check()

    @stage(consumes="numbers", registry=registry)
    def named(name: str) -> None: ...

    with pytest.raises(StageDefinitionError, match="could not run the stages on 'numbers'"):
        registry.check()


def test_a_stage_that_nothing_would_run_is_refused() -> None:
    """Without a topic and a schedule; data of ticks without ticks."""

    def doubled(number: int) -> int:
        return 2 * number

    with pytest.raises(StageDefinitionError, match="nothing would ever run it"):
        stage(registry=Registry())(doubled)
    with pytest.raises(StageDefinitionError, match="has no schedule"):
        stage(consumes="x", schedule_data=lambda tick: tick.at.day, registry=Registry())(doubled)
