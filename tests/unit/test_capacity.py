"""``pipeline capacity``: the model against what was measured and against the code, and the command."""

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.fill import first_event
from benchmarks.stages import double
from benchmarks.units import item_size
from pipeline.capacity import Plan, Shape, measured, plan, prices, quotas, steps_of
from pipeline.capacity.figure import Figure
from pipeline.capacity.use import cpu_ms, parent_ms, requests_of, steps_among_many
from pipeline.cli import main
from pipeline.jobs import (
    Done,
    JobFilled,
    JobPlan,
    JobStore,
    NewJob,
    PartDone,
    PartRef,
    PartResult,
    SealedSplit,
    SplitFilled,
    SplitRef,
    StageDone,
    StageRef,
)
from pipeline.jobs.table import Table
from pipeline.wire import events, taskmessage
from pipeline.wire.taskmessage import TaskHeader, sealed_header
from pipeline.worker.settle.parts import page_tasks, pages_to_send
from tests import builders
from tests.fakes.dynamodb import FakeDynamoDB

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "capacity.md"

#: The two jobs of the whole-jobs table of docs/reference/performance.md, which do nothing.
STAGES, SPLIT = Shape(stages=3, run=0, size=1), Shape(stages=3, parts=4, run=0, size=1)


def planned(
    *mix: Shape,
    rate: float = 100,
    concurrency: int = 8,
    region: str = "us-east-1",
    shards: int = 4,
    by_entity: bool = False,
) -> Plan:
    return plan(rate, mix, concurrency=concurrency, region=region, shards=shards, by_entity=by_entity)


def units(shape: Shape) -> float:
    """Write units of a job among many."""
    return sum(step.writes + step.index_writes for step in steps_among_many(shape))


# ─── Against what was measured (docs/reference/performance.md) ───


@pytest.mark.parametrize("tasks", [917, 915, 882, 845, 870, 805])
def test_a_worker_is_as_fast_as_measured(tasks: float) -> None:
    """Tasks in the middle of a path, on a machine that does nothing else; within 15 %."""
    assert planned(Shape(stages=1_000, run=0)).sizes.worker_tasks == pytest.approx(tasks, rel=0.15)


@pytest.mark.parametrize(
    ("shape", "parent", "every", "requests", "write_units"),
    [(STAGES, 4.3, 6.9, 4.1, 8.0), (SPLIT, 12.1, 19.0, 13.8, 11.8)],
    ids=["stages", "split"],
)
def test_whole_jobs_take_what_was_measured(
    shape: Shape, parent: float, every: float, requests: float, write_units: float
) -> None:
    """CPU of the worker's parent process and requests within 15 %, of all processes within 20 %.

    They were measured at a load of 10 to 26, and the model is for machines that do nothing else.
    """
    assert parent_ms(shape) == pytest.approx(parent, rel=0.15)
    assert cpu_ms(shape) == pytest.approx(every, rel=0.20)
    assert sum(requests_of(shape).values()) == pytest.approx(requests, rel=0.15)
    assert units(shape) == pytest.approx(write_units, rel=0.02)


def test_units_of_the_units_benchmark() -> None:
    """2.667 for each of the three tasks of a job."""
    assert units(STAGES) / STAGES.tasks == pytest.approx(2.667, abs=0.001)


@pytest.mark.parametrize("parts", [10_000, 50_000, 100_000])
def test_large_splits_take_what_was_measured(parts: int) -> None:
    """Beside a unit for each result 0.106 to 0.554 units a part, and 0.51 to 0.81 requests to SQS."""
    shape = Shape(parts=parts, run=0, size=5)
    assert 0.106 <= units(shape) / parts - 1 <= 0.554
    found = requests_of(shape)
    sqs = found["SendMessageBatch"] + found["ReceiveMessage"] + found["DeleteMessageBatch"]
    assert sqs / parts == pytest.approx((0.51 + 0.81) / 2, rel=0.3)


def test_one_entity_is_as_fast_as_measured() -> None:
    """92 to 95 tasks a second with ministack, 57 to 65 with ElasticMQ: the model has the faster server."""
    [entity] = [
        each for each in planned(Shape(stages=1, entities=1, run=0)).bottlenecks if "ordered" in each.name
    ]
    assert 92 <= entity.tasks <= 95


# ─── Against the code ───


@pytest.mark.parametrize("parts", [0, 1, 256, 257, 512, 513, 700, 10_000, 153_600])
@pytest.mark.parametrize("size", [1, 2_000, 300_000])
def test_page_tasks_are_those_of_the_worker(parts: int, size: int) -> None:
    """As many as a split sends, each of which sends the next."""
    shape = Shape(parts=parts, size=size)
    sealed = SealedSplit(
        split=SplitRef(job_id="j", stage="s", split_id="i"),
        total=parts,
        header="{}",
        data="{}",
        run="r",
        pages=shape.pages,
    )
    waiting, sent = list(page_tasks(sealed, None)), list(pages_to_send(sealed, None))
    for page in waiting:
        sent += pages_to_send(sealed, page)
        waiting += page_tasks(sealed, page)
    assert sorted(sent) == list(range(shape.pages))
    assert shape.page_tasks == len(waiting)


def test_an_event_and_a_task_are_as_large_as_modelled() -> None:
    """Within 15 %, beside their data."""
    event = first_event(double.consumes, b"1")
    assert event.job_id is not None
    assert event.submitted_at is not None
    key, value, headers = events.encode(event)
    size = len(key or b"") + len(value or b"") + sum(len(name) + len(text) for name, text in headers)
    assert size == pytest.approx(measured.EVENT_BYTES, rel=0.15)
    message = taskmessage.for_event(double, event, event.job_id, event.submitted_at)
    assert len(message.to_sqs()["body"]) == pytest.approx(measured.MESSAGE_BYTES, rel=0.15)


@pytest.mark.parametrize("parts", [4, 1_000])
def test_items_are_as_large_as_modelled(parts: int) -> None:
    """The model has the bytes that a job keeps in the table, within 15 %."""
    table = FakeDynamoDB()
    run_job(JobStore(builders.settings(service_name="a-shop"), table=Table("jobs", lambda: table)), parts)  # type: ignore[arg-type,return-value]
    kept = sum(map(item_size, table.items.values()))
    expected = sum(step.stored for step in steps_of(Shape(stages=2, parts=parts, size=len(str(parts)))))
    assert expected == pytest.approx(kept, rel=0.15)


def run_job(store: JobStore, parts: int) -> None:
    """Run a job of two stages, of which the first is split, with ids and names as long as real ones."""
    job_id, worker, topic = str(uuid.uuid4()), "celery@worker-7d9f8b6c5d-x2x4q", "shop-order-placed"
    job = NewJob(
        job_id=job_id,
        entity_id="order-1234567",
        topic=topic,
        plan=JobPlan(stages={"price": ("mail",), "mail": ("mail",)}),
        submitted_at=1.7e9,
        event=("/shop", str(uuid.uuid4())),
    )
    store.records.open([job])
    split = SplitRef(job_id=job_id, stage="price", split_id=str(uuid.uuid4()))
    event = first_event(double.consumes, b"1")
    header = TaskHeader.read(taskmessage.for_event(double, event, job_id, event.submitted_at or 0).headers)
    assert header is not None
    sealed = store.splits.seal(split, sealed_header(header, {}), "1", map(str, range(parts)), layout=2)
    ended = [
        PartResult(
            ref=PartRef(job_id=job_id, stage="price", split_id=split.split_id, ordinal=ordinal, total=parts),
            result=str(ordinal),
            run_seconds=0.123456,
            attempts=1,
        )
        for ordinal in range(parts)
    ]
    if not sealed.keeps:
        store.splits.put_results(ended)
    parts_done = [PartDone(ref=each.ref, result=each if sealed.keeps else None) for each in ended]
    close(store, parts_done)
    done = [
        StageDone(
            ref=StageRef(job_id=job_id, stage=stage, gather=stage == "price"),
            task_id=str(uuid.uuid4()),
            ends_path=stage == "mail",
            run_seconds=0.123456,
            finished_at=1.7e9,
            worker=worker,
        )
        for stage in ("price", "mail")
    ]
    close(store, done)


def close(store: JobStore, done: Sequence[Done]) -> None:
    """Record tasks that are done, and close what they fill."""
    closings = store.tasks.record(done).closings
    filled = [each for each in closings if isinstance(each, SplitFilled | JobFilled)]
    assert store.close(filled) == [None]


# ─── Plans ───


def test_a_plain_task_needs_workers_and_a_queue() -> None:
    """No bridge, no topic, no DynamoDB."""
    made = planned(Shape(stages=0, run=0.1), rate=1_000)
    assert (made.sizes.workers, made.sizes.bridges, made.sizes.partitions) == (18, 0, 0)
    assert set(made.use.requests) == {"SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch"}
    assert made.use.writes == made.use.index_writes == made.use.reads == 0


def test_shares_are_those_of_jobs() -> None:
    """Of two kinds in equal shares, the one with more tasks has more of the rate."""
    made = planned(Shape(stages=1), Shape(stages=3), rate=400)
    assert made.use.jobs == pytest.approx(200)
    assert made.use.events == pytest.approx(400)


def test_a_bottleneck_does_not_depend_on_the_rate_that_is_asked_for() -> None:
    """It is the rate of the mix at which it is reached; the lowest is first."""
    mix = Shape(stages=2, parts=600, share=1), Shape(stages=3, entities=50, share=9)
    few, many = planned(*mix, rate=1), planned(*mix, rate=123_456)
    assert [each.name for each in few.bottlenecks] == [each.name for each in many.bottlenecks]
    rates = [each.tasks for each in few.bottlenecks]
    assert rates == sorted(rates)
    assert rates == pytest.approx([each.tasks for each in many.bottlenecks])


def test_a_price_is_that_of_the_units() -> None:
    """Eight write units a job of three stages, at any rate."""
    for rate in (1, 1e6):
        price = planned(Shape(stages=3), rate=rate).price
        assert price["DynamoDB writes"] == pytest.approx(8e6 * prices.WRITE_UNIT.value)


def test_the_index_by_entity_costs_a_unit_a_job() -> None:
    """Of the plan as of the command, which says it in a row of its own."""
    made = planned(Shape(stages=3), rate=300, by_entity=True)
    assert made.use.entity_writes == pytest.approx(100)
    assert made.price["DynamoDB writes"] == pytest.approx(9e6 * prices.WRITE_UNIT.value)
    result = run("--rate", "300", "--entity-index")
    assert re.search(r"^write units of the index by entity +100$", result.stdout, re.MULTILINE)
    assert "by entity" not in run("--rate", "300").stdout


def test_ordered_parts_are_sent_one_by_one() -> None:
    """A request takes one message of a group."""
    assert requests_of(Shape(parts=1_000, entities=1))["SendMessageBatch"] > 1_000
    assert requests_of(Shape(parts=1_000))["SendMessageBatch"] < 120


@pytest.mark.parametrize("module", [prices, quotas, measured])
def test_every_figure_has_a_source_and_a_date(module: ModuleType) -> None:
    """So that a reader can see how old it is; a document of this project exists."""
    for figure in figures(module):
        assert figure.value > 0
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", figure.date), figure
        assert figure.source.startswith(("https://", "docs/")), figure


def figures(module: ModuleType) -> Iterator[Figure]:
    found = [each for each in vars(module).values() if isinstance(each, Figure)]
    assert found
    yield from found


# ─── The command ───


def run(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(main, ["capacity", *arguments], env={"AWS_DEFAULT_REGION": "", **variables})


def test_it_needs_no_settings_and_prints_the_plan() -> None:
    """Processes, units, requests, bytes, three bottlenecks and the price."""
    result = run("--rate", "10000", "--mix", "stages=3,share=9", "--mix", "stages=4,parts=1000,run=2s")
    assert result.exit_code == 0, result.output
    for text in ("workers", "bridges", "partitions", "write units", "UpdateItem requests", "MB", "together"):
        assert text in result.stdout
    table = result.stdout.partition("\nlimit")[2].partition("\n\n")[0]
    assert len(table.splitlines()) == 1 + 3


def test_json_has_all_of_it() -> None:
    """One object, with every bottleneck and the figure behind it."""
    result = run("--rate", "1000", "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    made = planned(Shape(stages=3), rate=1_000)
    assert found["workers"] == made.sizes.workers
    assert found["requests_per_second"] == pytest.approx(made.use.requests)
    assert found["price_in_dollars"]["total"] == pytest.approx(sum(made.price.values()))
    assert [each["name"] for each in found["bottlenecks"]] == [each.name for each in made.bottlenecks]
    assert all(each["figure"]["source"] and each["mend"] for each in found["bottlenecks"])


def test_the_region_is_that_of_the_environment() -> None:
    """Its queues carry less than those of us-east-1."""
    here = json.loads(run("--rate", "1", "--json", AWS_DEFAULT_REGION="eu-north-1").stdout)
    assert here["region"] == "eu-north-1"
    assert [each["tasks_per_second"] for each in here["bottlenecks"] if "one queue in" in each["name"]] == [
        pytest.approx(2_400)
    ]


def test_the_shards_of_the_index_are_those_of_the_option_or_of_the_environment() -> None:
    """Jobs of three stages: each shard takes 500 open jobs a second."""
    asked = ("--rate", "1", "--json")
    for result in (run(*asked, "--shards", "16"), run(*asked, DYNAMODB_INDEX_SHARDS="16")):
        limits = json.loads(result.stdout)["bottlenecks"]
        found = {each["name"]: each["tasks_per_second"] for each in limits}
        assert found["open jobs in 16 partitions of the index"] == pytest.approx(24_000)
        assert found["a day's ended jobs in 16 partitions of the index"] == pytest.approx(48_000)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--rate"),
        (["--rate", "5", "--shards", "3"], "4<=x<=64"),
        (["--rate", "0"], "0"),
        (["--rate", "nan"], "tasks a second"),
        (["--rate", "inf"], "tasks a second"),
        (["--rate", "5", "--mix", "stagess=3"], "'stagess=3'"),
        (["--rate", "5", "--mix", "stages"], "'stages'"),
        (["--rate", "5", "--mix", ""], "stages=3,parts=100"),
        (["--rate", "5", "--mix", "stages=-1"], "stages=-1"),
        (["--rate", "5", "--mix", "stages=1.5"], "stages=1.5"),
        (["--rate", "5", "--mix", "share=0"], "above 0"),
        (["--rate", "5", "--mix", "run=2"], "'2' is not a duration"),
        (["--rate", "5", "--mix", "stages=1,stages=2"], "twice"),
        (["--rate", "5", "--mix", "size=2000000"], "1,048,576"),
        (["--rate", "5", "--mix", "stages=0,parts=3"], "plain task"),
        (["--rate", "5", "--region", "moon"], "'moon' is no region"),
        (["--rate", "5", "--concurrency", "0"], "concurrency"),
    ],
)
def test_wrong_input_is_named(arguments: list[str], told: str) -> None:
    """Exit code 2, the value, and how to write it."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert told in result.stderr


def test_the_guide_says_what_the_model_says() -> None:
    """Of jobs of three stages: each limit with its rate, mend and source, a worker's rate, and the price."""
    made, text = planned(Shape(stages=3)), GUIDE.read_text()
    rows = [
        f"| {each.name} | {each.tasks:,.0f} | {each.mend} | {source(each.figure)} |"
        for each in made.bottlenecks
    ]
    table = text.partition("| limit | tasks/s | way past it | source |\n| --- | --- | --- | --- |\n")[2]
    assert table.partition("\n\n")[0].splitlines() == rows
    assert f"cost {sum(made.price.values()):.2f} dollars" in text
    assert f"| {planned(Shape(stages=3, run=0)).sizes.worker_tasks:,.0f} tasks/s of such jobs" in text


def source(figure: Figure) -> str:
    """A link to the source of a figure."""
    if figure.source.startswith("https://"):
        return f"[{figure.value:,.0f} {figure.unit}]({figure.source}), {figure.date}"
    path = figure.source.removeprefix("docs/")
    return f"[{figure.value:,.0f} {figure.unit}](../{path}), {figure.date}"
