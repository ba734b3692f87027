"""The jobs page without its services: layout, contents, and escaping."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.author.decorator import stage
from pipeline.author.registry import Registry
from pipeline.jobs import Job, JobState, StageProgress
from pipeline.observe.reports import QueueReading
from pipeline.observe.stagestats import StagesReading, WorkerSeen
from pipeline.schedules.status import ScheduleStatus
from pipeline.web import pages
from pipeline.web.access import Access
from pipeline.web.model import JobDetail, PipelineView, Progress, StageRow, StageView, TopicView
from pipeline.web.pages import overview, rendering
from pipeline.web.pages.flow import BACKLOG, SPAN, draw
from pipeline.web.pages.frame import Pages, asset, path, since
from pipeline.web.pages.jobs import Span, changed_at, spans
from pipeline.web.pages.overview import Stream, event
from tests.unit.test_live import SETTINGS

FOLDER = Path(pages.__file__).parent


def a_stage(name: str, consumes: str, emits: str | None = None, queue: str = "tasks.fifo") -> StageView:
    return StageView(stage=name, consumes=consumes, emits=emits, queue=queue, ordered=False, split=False)


def a_pipeline(*stages: StageView, lags: dict[str, int | None], **depths: int) -> PipelineView:
    topics = dict.fromkeys(each.consumes for each in stages)
    return PipelineView(
        stages=stages,
        topics=[TopicView(topic=topic, name=topic, lag=lags.get(topic)) for topic in topics],
        queues=[
            QueueReading(name=f"{name}.fifo", role="tasks", available=depth, in_flight=0, delayed=0)
            for name, depth in depths.items()
        ],
        away=(),
        at_work=StagesReading(tasks={}, workers=(), error=None, heard_at=None, taken_at=0),
        schedules=(),
        taken_at=0,
    )


def a_worker(name: str, *, online: bool = True) -> WorkerSeen:
    return WorkerSeen(name=name, online=online, seen_at=0, pool_size=4, active=1)


# ─── The pipeline ───


def test_the_page_lists_some_of_many_workers() -> None:
    """Those that are online first; it says how many more there are. It stays small: it is sent every beat."""
    names = [f"worker{number}@{'host' * 100}" for number in range(1_000)]
    workers = [a_worker(name, online=name == names[-1]) for name in names]
    view = a_pipeline(a_stage("a", "one"), lags={})
    view = replace(view, at_work=replace(view.at_work, workers=workers, is_full=True))
    html = Pages(SETTINGS, Access(SETTINGS)).render("_pipeline.html", **overview.values_of(view))
    assert html.count("<tr><td") == overview.WORKERS_SHOWN
    assert html.index(names[-1]) < html.index(names[0])
    assert "and 900 more" in html
    assert "some are left out" in html
    assert len(html) < 150_000


def test_the_page_lists_schedules() -> None:
    """With their last and next tick, and why the last one started nothing."""
    schedule = ScheduleStatus(
        name="beat:clean",
        runs="task shop.clean",
        ticks="every 3600 s",
        state="active",
        last_tick=1_790_000_000.0,
        fired_at=1_790_000_001.0,
        error="ValueError: <nothing>",
        next_tick=None,
    )
    view = a_pipeline(a_stage("a", "one"), lags={})
    pages = Pages(SETTINGS, Access(SETTINGS))
    assert "Schedules" not in pages.render("_pipeline.html", **overview.values_of(view))
    html = pages.render("_pipeline.html", **overview.values_of(replace(view, schedules=[schedule])))
    shown = "beat:clean", "every 3600 s", "active", "2026-09-21 14:13:20", "ValueError: &lt;nothing&gt;"
    assert all(text in html for text in shown)


def test_stages_that_share_a_topic_or_a_queue_share_its_drawing() -> None:
    """A topic that two stages consume is drawn once, as is a queue; a stage's own queue stands by itself."""
    stages = (a_stage("a", "one", "two"), a_stage("own", "one", queue="own.fifo"), a_stage("b", "one"))
    flow = draw(a_pipeline(*stages, a_stage("c", "two"), lags={}))
    rows = [
        (hop.stage.stage, hop.topic and hop.topic_span, hop.queue and hop.queue_span) for hop in flow.hops
    ]
    assert rows == [("a", 2, 3), ("b", None, None), ("c", 1, None), ("own", 1, 1)]
    assert [hop.goes_on for hop in flow.hops] == [True, False, False, False]


def test_a_stage_is_drawn_after_those_that_feed_it() -> None:
    """Also one with a queue of its own in the middle of a path; the shared queue is then drawn twice."""
    stages = (
        a_stage("first", "one", "two"),
        a_stage("last", "three"),
        a_stage("own", "two", "three", queue="own.fifo"),
        a_stage("other", "one"),
    )
    flow = draw(a_pipeline(*stages, lags={}))
    rows = [(hop.stage.stage, hop.topic and hop.topic_span, hop.queue) for hop in flow.hops]
    assert rows == [
        ("first", 2, "tasks.fifo"),
        ("other", None, None),
        ("own", 1, "own.fifo"),
        ("last", 1, "tasks.fifo"),
    ]


def test_a_queue_of_many_stages_is_drawn_in_blocks() -> None:
    """No drawing spans more rows than the style sheet has a class for."""
    flow = draw(a_pipeline(*(a_stage(f"s{at}", "one") for at in range(2 * SPAN + 1)), lags={}))
    assert [hop.queue_span for hop in flow.hops if hop.queue] == [SPAN, SPAN, 1]
    style = (FOLDER / "static" / "pages.css").read_text()
    assert all(f".span-{rows} " in style for rows in range(2, SPAN + 1))


@pytest.mark.parametrize(
    ("lag", "available", "where"),
    [(BACKLOG - 1, 0, None), (BACKLOG, 3, "one"), (5, 4_000, "tasks.fifo"), (None, 0, None)],
)
def test_where_work_piles_up_is_said(lag: int | None, available: int, where: str | None) -> None:
    """The topic or the queue where most waits is named, unless what waits is no more than traffic."""
    flow = draw(a_pipeline(a_stage("a", "one"), lags={"one": lag}, tasks=available))
    assert (flow.backlog and flow.backlog.name) == where
    assert flow.waiting == (lag or 0) + available


def test_what_is_not_known_is_not_shown_as_nothing() -> None:
    """Without Kafka and SQS there are no numbers, not zeros."""
    flow = draw(a_pipeline(a_stage("a", "one"), lags={"one": None}))
    assert (flow.waiting, flow.dead_letters, flow.backlog) == (None, None, None)


@pytest.mark.parametrize(("error", "shown"), [("the topic is away", rendering.UNKNOWN), (None, "0")])
def test_rates_that_cannot_be_read_are_not_zeros(error: str | None, shown: str) -> None:
    """While workers' events cannot be read, the page says so and shows no numbers of them."""
    view = a_pipeline(a_stage("a", "one"), lags={"one": 0})
    view = replace(view, at_work=replace(view.at_work, error=error))
    html = Pages(SETTINGS, Access(SETTINGS)).render("_pipeline.html", **overview.values_of(view))
    for name in ("running now", "workers"):
        assert f"<dt>{name}</dt><dd>{shown}</dd>" in html
    assert ("Workers are unknown" in html) is (error is not None)
    assert f"<dt>run</dt><dd>{shown if error else '0/s'}</dd>" in html


@pytest.mark.parametrize(("shares", "note"), [((1, 1), None), ((2, 8), "Flower shows 1 of 8 jobs")])
def test_the_page_says_what_share_of_jobs_flower_shows(shares: tuple[int, ...], note: str | None) -> None:
    """Of the worker that shows least; one that has gone does not count."""
    workers = [replace(a_worker(f"w{each}"), one_in=each) for each in shares]
    workers.append(replace(a_worker("gone", online=False), one_in=16))
    view = a_pipeline(a_stage("a", "one"), lags={})
    view = replace(view, at_work=replace(view.at_work, workers=workers))
    html = Pages(SETTINGS, Access(SETTINGS)).render("_pipeline.html", **overview.values_of(view))
    assert ("Flower shows" in html) is (note is not None)
    assert (note or "") in html


# ─── One job ───


def test_a_stage_begins_when_the_one_before_it_ends() -> None:
    """Spans are shares of the job's time; one whose event is not there has none."""
    registry = Registry()

    @stage(consumes="one", emits="two", registry=registry)
    def first(x: int) -> int:
        return x

    @stage(consumes="two", emits="three", registry=registry)
    def second(x: int) -> int:
        return x

    @stage(consumes="three", registry=registry)
    def third(x: int) -> None: ...

    job = Job(
        job_id="j",
        state=JobState.RUNNING,
        entity_id="e",
        topic="one",
        plan=registry.plan("one"),
        submitted_at=100,
        updated_at=110,
    )
    ends = {"first": 125.0, "second": None, "third": None}
    view = JobDetail(
        job=job,
        stages=[
            StageRow(
                progress=StageProgress(
                    stage=name, state="waiting", done=0, failed=0, total=1, finished_at=end
                ),
                flower_url=None,
            )
            for name, end in ends.items()
        ],
        failures=(),
        more_failures=False,
        progress=Progress(done=0, failed=0, cancelled=0, total=3),
        trace_url=None,
        away=(),
        taken_at=200,
    )
    assert spans(view, registry) == {
        "first": Span(begin=0, end=0.25),
        "second": Span(begin=0.25, end=1),
        "third": None,
    }
    assert changed_at(view) == 125
    assert changed_at(replace(view, stages=view.stages[1:])) == 110
    closed = replace(view, job=replace(job, state=JobState.FAILED, failed_at=150))
    assert spans(closed, registry)["first"] == Span(begin=0, end=0.5)


# ─── What is shown ───


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (rendering.number(1234567), "1,234,567"),
        (rendering.number(None), rendering.UNKNOWN),
        (rendering.share(0.0042), "0.42 %"),
        (rendering.share(0.5), "50 %"),
        (rendering.share(0.0), "0 %"),
        (rendering.rate(0.0), "0/s"),
        (rendering.rate(0.05), "3/min"),
        (rendering.rate(1234.5), "1,234/s"),
        (rendering.duration(0.0), "0 ms"),
        (rendering.duration(0.0004), "< 1 ms"),
        (rendering.duration(0.34), "340 ms"),
        (rendering.duration(2.5), "2.5 s"),
        (rendering.duration(59.96), "1 min"),
        (rendering.duration(250), "4 min 10 s"),
        (rendering.duration(3_600), "1 h"),
        (rendering.duration(200_000), "2 d 7 h"),
        (rendering.ago(100, 100.4), "just now"),
        (rendering.ago(0, 7_300), "2 h ago"),
        (rendering.moment(0), "1970-01-01 00:00:00"),
        (rendering.short("0e0b7a7c-0000-5000-8000-000000000000"), "0e0b7a7c"),
        (rendering.short("a.b"), "a.b"),
        (rendering.last("pipeline.errors.PermanentError"), "PermanentError"),
        (rendering.readable('{"a":"ü"}'), '{\n  "a": "ü"\n}'),
        (rendering.readable("no JSON"), "no JSON"),
        (rendering.readable(None), ""),
    ],
)
def test_values_are_shown_for_people(shown: str, text: str) -> None:
    """Numbers, shares, times and data as a person reads them."""
    assert shown == text


def test_large_data_is_cut() -> None:
    """Data too large for a browser is cut, and the cut is reported."""
    shown = rendering.readable('"' + "x" * 50_000 + '"')
    assert len(shown) < rendering.MAX_TEXT + 100
    assert shown.endswith("characters more")


def test_an_address_holds_no_more_than_it_says() -> None:
    """Ids with anything in them stay within their part of an address; what was not asked for is left out."""
    assert path("/jobs/a?b#c d") == "/jobs/a%3Fb%23c%20d"
    assert path("/jobs", state="", text="a&b", before=None) == "/jobs?text=a%26b"
    assert re.fullmatch(r"/static/pages\.css\?v=[0-9a-f]{12}", asset("pages.css"))


def test_those_who_ask_for_the_same_age_at_about_the_same_time_ask_for_the_same() -> None:
    """Otherwise each of fifty who watch would cost a read of their own."""
    assert since("1h", 10_001.0) == since("1h", 10_008.9) == 6_400
    assert since("", 10_000) is since("for ever", 10_000) is None


def test_everything_is_escaped_in_every_template() -> None:
    """No template turns escaping off, marks anything as safe, or has a script or a style of its own."""
    assert rendering.make_templates().autoescape is True
    for file in (FOLDER / "templates").glob("*.html"):
        source = file.read_text()
        assert not re.search(r"\|\s*safe|autoescape|Markup|\sstyle=|\son[a-z]+=|<style|<script>", source), (
            file
        )


# ─── Live ───


def test_fifty_who_watch_are_one_read() -> None:
    """Each beat is made once, and reaches all; when nobody watches any more nothing is made."""
    made = 0

    async def make() -> str:
        nonlocal made
        made += 1
        return event("beat", f"{made}\nlines")

    async def watch(stream: Stream) -> list[str]:
        seen: list[str] = []
        async for each in stream.watch():
            seen.append(each)
            if len(seen) == 3:
                break
        return seen

    async def all_of_them() -> tuple[list[list[str]], int]:
        stream = Stream(make, interval=0.02)
        seen = await asyncio.gather(*(watch(stream) for _ in range(50)))
        await asyncio.sleep(0.1)
        count: Any = made
        await asyncio.sleep(0.1)
        assert made == count
        return seen, count

    seen, count = asyncio.run(all_of_them())
    assert all(each == seen[0] for each in seen)
    assert seen[0][0] == "event: beat\ndata: 1\ndata: lines\n\n"
    assert count <= 5


def test_a_server_that_ends_lets_go_of_those_who_watch() -> None:
    """Else it would wait for them, and cut them off with an error."""

    async def make() -> str:
        return event("beat", "")

    async def watch(stream: Stream) -> int:
        return len([each async for each in stream.watch()])

    async def begin_and_end() -> list[int]:
        stream = Stream(make, interval=0.02)
        watching = [asyncio.create_task(watch(stream)) for _ in range(3)]
        await asyncio.sleep(0.1)
        stream.end()
        return await asyncio.wait_for(asyncio.gather(*watching), 10)

    assert all(count > 0 for count in asyncio.run(begin_and_end()))
