"""The jobs page without its services: how it is laid out, what is shown, and that all is escaped."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.jobs import Job, JobPlan, JobState, StageProgress
from pipeline.monitoring.sqs import QueueReading
from pipeline.monitoring.stages import StagesReading
from pipeline.registry import Registry
from pipeline.stages import stage
from pipeline.web import pages
from pipeline.web.model import JobDetail, PipelineView, Progress, StageRow, StageView, TopicView
from pipeline.web.pages import rendering
from pipeline.web.pages.flow import HEAP, SPAN, draw
from pipeline.web.pages.frame import asset, path, since
from pipeline.web.pages.stream import Stream, event
from pipeline.web.pages.timeline import Span, spans

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
        taken_at=0,
    )


# ─── The pipeline ───


def test_stages_that_share_a_topic_or_a_queue_share_its_drawing() -> None:
    """A topic that two stages consume is drawn once, as is a queue; a stage's own queue stands by itself."""
    stages = (a_stage("a", "one", "two"), a_stage("own", "one", queue="own.fifo"), a_stage("b", "one"))
    flow = draw(a_pipeline(*stages, a_stage("c", "two"), lags={}))
    rows = [
        (hop.stage.stage, hop.topic and hop.topic_span, hop.queue and hop.queue_span) for hop in flow.hops
    ]
    assert rows == [("a", 2, 3), ("b", None, None), ("c", 1, None), ("own", 1, 1)]
    assert [hop.goes_on for hop in flow.hops] == [True, False, False, False]


def test_a_queue_of_many_stages_is_drawn_in_blocks() -> None:
    """No drawing spans more rows than the style sheet has a class for."""
    flow = draw(a_pipeline(*(a_stage(f"s{at}", "one") for at in range(2 * SPAN + 1)), lags={}))
    assert [hop.queue_span for hop in flow.hops if hop.queue] == [SPAN, SPAN, 1]
    style = (FOLDER / "static" / "pages.css").read_text()
    assert all(f".span-{rows} " in style for rows in range(2, SPAN + 1))


@pytest.mark.parametrize(
    ("lag", "available", "where"),
    [(HEAP - 1, 0, None), (HEAP, 3, "one"), (5, 4_000, "tasks.fifo"), (None, 0, None)],
)
def test_where_work_piles_up_is_said(lag: int | None, available: int, where: str | None) -> None:
    """The topic or the queue where most waits is named, unless what waits is no more than traffic."""
    flow = draw(a_pipeline(a_stage("a", "one"), lags={"one": lag}, tasks=available))
    assert (flow.heap and flow.heap.name) == where
    assert flow.waiting == (lag or 0) + available


def test_what_is_not_known_is_not_shown_as_nothing() -> None:
    """Without Kafka and SQS there are no numbers, not zeros."""
    flow = draw(a_pipeline(a_stage("a", "one"), lags={"one": None}))
    assert (flow.waiting, flow.dead_letters, flow.heap) == (None, None, None)


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
        plan=JobPlan(stages=registry.plan("one")),
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
    """What would choke a browser is cut, and how much is missing is said."""
    shown = rendering.readable('"' + "x" * 50_000 + '"')
    assert len(shown) < rendering.SHOWN + 100
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
