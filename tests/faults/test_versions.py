"""Two versions of the stages at once: every pair of bridge and worker, while a deployment rolls on.

The old version runs, the new one joins it, the old one leaves; events come all the time. The verdict is from
outside: what user code wrote, and what the jobs' records say.
"""

import json
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.author.registry import Registry
from pipeline.infra.provision import provision
from pipeline.jobs import Job, JobState, JobStore
from pipeline.kafka import EventProducer, OutgoingRecord
from pipeline.services.children import Children, children
from pipeline.services.environment import Services
from pipeline.settings import Settings, load_settings
from tests.conftest import MakeEnvironment
from tests.faults.marks import long_only
from tests.faults.stack import FaultStack
from tests.processes import wait_until

CELERY = (sys.executable, "-m", "celery", "-A", "pipeline")
#: What a process logs once it is at work.
AT_WORK = {"bridge": "bridge.assigned", "worker": " ready."}
#: Events of each of the three phases: the old version alone, both, the new one alone.
EVENTS = 24
#: Seconds that a step may take on a busy machine.
PATIENCE = 120.0

HEAD = """
import json, os
from collections.abc import Iterable, Iterator
from pipeline import current_task, stage

def note(what, value=None):
    task = current_task()
    line = json.dumps([task.entity_id, task.stage, what, value]) + "\\n"
    with open(os.environ["RUNS"], "a") as file:
        file.write(line)
"""
PRICE = """
@stage(consumes="placed", emits="{topic}")
def price(order: dict[str, list[int]]) -> dict[str, int]:
    note("whole")
    return {{"total": sum(order["lines"])}}
"""
SPLIT_PRICE = """
@stage(consumes="placed", emits="{topic}")
def price(line: int) -> int:
    note("part")
    return line

@price.split
def lines(order: dict[str, list[int]]) -> Iterator[int]:
    yield from order["lines"]

@price.gather
def total(order: dict[str, list[int]], prices: Iterable[int]) -> dict[str, int]:
    note("gather")
    return {{"total": sum(prices)}}
"""
BOOK = """
@stage(consumes="{topic}", emits="booked", name="{name}", ordered={ordered})
def book(bill: dict[str, int]) -> dict[str, int]:
    note("whole", bill["total"])
    return bill
"""
MAIL = """
@stage(consumes="booked")
def mail(bill: dict[str, int]) -> None:
    note("whole", bill["total"])
"""
AUDIT = """
@stage(consumes="placed")
def audit(order: dict[str, list[int]]) -> None:
    note("whole")
"""


def shop(
    *,
    split: bool = False,
    topic: str = "priced",
    book: str | None = "book",
    ordered: bool = False,
    more: str = "",
) -> str:
    """The source of one version of the stages."""
    parts = [HEAD, (SPLIT_PRICE if split else PRICE).format(topic=topic)]
    if book:
        parts.append(BOOK.format(topic=topic, name=book, ordered=ordered))
    return "".join([*parts, more])


@dataclass(kw_only=True)
class Rollout:
    """One service, two versions of its stages, and the processes that run them."""

    settings: Settings
    environment: dict[str, str]
    folder: Path
    started: Children
    store: JobStore
    producer: EventProducer
    running: "dict[tuple[str, str], subprocess.Popen[bytes]]" = field(default_factory=dict)
    emitted: list[str] = field(default_factory=list)

    def write(self, version: str, source: str) -> None:
        """Put a version's stages where its processes find them."""
        (self.folder / version).mkdir()
        (self.folder / version / "shop.py").write_text(source)

    def start(self, version: str) -> None:
        """Start a bridge and a worker of a version, and wait until both are at work."""
        for kind, options in (
            ("bridge", ()),
            ("worker", ("--loglevel", "INFO", "-c", "2", "-n", f"{version}@here")),
        ):
            log = self.folder / f"{version}-{kind}.log"
            with log.open("wb") as output:
                self.running[version, kind] = self.started.start(
                    [*CELERY, kind, *options],
                    environment=self.environment,
                    output=output,
                    folder=self.folder / version,
                )
        for kind, words in AT_WORK.items():
            log = self.folder / f"{version}-{kind}.log"
            wait_until(lambda log=log, words=words: words in log.read_text(), log.name, PATIENCE)  # type: ignore[misc]

    def stop(self, version: str) -> None:
        """End a version's processes in order, as a deployment does."""
        for kind in AT_WORK:
            self.running.pop((version, kind)).send_signal(signal.SIGTERM)

    def emit(self, count: int = EVENTS) -> None:
        """Send orders, each of an entity of its own."""
        names = [f"order-{len(self.emitted) + n}" for n in range(count)]
        records = [
            OutgoingRecord(
                topic=self.settings.topic("placed"),
                key=name.encode(),
                value=json.dumps({"lines": [1, 2, len(name)]}).encode(),
                headers=(),
            )
            for name in names
        ]
        assert self.producer.emit(records, 30) == [None] * count
        self.emitted += names

    def jobs(self) -> dict[str, Job]:
        """Every job by its entity."""
        page = self.store.listing.jobs(None, limit=1_000)
        return {job.entity_id: job for job in page.jobs}

    def runs(self) -> dict[str, dict[str, list[tuple[str, int | None]]]]:
        """Return the runs that user code wrote, by entity and stage, with their totals."""
        found: dict[str, dict[str, list[tuple[str, int | None]]]] = defaultdict(lambda: defaultdict(list))
        for line in (self.folder / "runs").read_text().splitlines():
            entity, stage, what, value = json.loads(line)
            found[entity][stage].append((what, value))
        return found

    def roll(self, old: str, new: str) -> None:
        """Deploy ``new`` over ``old`` under load, and wait until every job has ended."""
        self.write("old", old)
        self.write("new", new)
        self.start("old")
        self.emit()
        wait_until(lambda: len(self.jobs()) >= EVENTS // 2, "the old version's jobs", PATIENCE)
        self.start("new")
        self.emit()
        wait_until(lambda: len(self.jobs()) > EVENTS, "jobs while both run", PATIENCE)
        self.stop("old")
        self.emit()
        wait_until(self._all_ended, "the end of every job", PATIENCE)

    def _all_ended(self) -> bool:
        jobs = self.jobs()
        return len(jobs) == len(self.emitted) and not any(
            job.state is JobState.RUNNING for job in jobs.values()
        )


@pytest.fixture
def rollout(
    fault_stack: tuple[FaultStack, Services],
    make_environment: MakeEnvironment,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Rollout]:
    """A service with nothing deployed yet."""
    (tmp_path / "runs").touch()
    environment = make_environment(
        fault_stack[1],
        TASK_MODULES="shop",
        AUTO_PROVISION="true",
        RUNS=str(tmp_path / "runs"),
        KAFKA_GROUP_PROTOCOL="consumer",
        SQS_LEASE_SECONDS="10",
        # Longer than both versions run side by side here, as the setting asks for: else a task of the new
        # version is a dead letter of the old one.
        UNKNOWN_TASK_SECONDS="60",
        MAX_RETRIES="1",
        RETRY_DELAY="0.2",
    )
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    settings = load_settings(environment)
    list(provision(settings, Registry()))
    producer = EventProducer(settings, "test")
    with children() as started:
        yield Rollout(
            settings=settings,
            environment=environment,
            folder=tmp_path,
            started=started,
            store=JobStore(settings),
            producer=producer,
        )
    producer.close(5)


CHANGES = {
    "a stage added behind a terminal one": (shop(), shop(more=MAIL)),
    "a stage added beside others": (shop(), shop(more=AUDIT)),
    "a split added": (shop(), shop(split=True)),
    "a split removed": (shop(split=True), shop()),
    "a stage removed behind": (shop(more=MAIL), shop()),
    "another topic between": (shop(), shop(topic="priced-2")),
    "order added": (shop(), shop(ordered=True)),
    "order removed": (shop(ordered=True), shop()),
}
SHORT = ("a stage added behind a terminal one", "a stage added beside others", "a split added")


@pytest.mark.parametrize(
    "change", [pytest.param(name, marks=() if name in SHORT else long_only, id=name) for name in CHANGES]
)
def test_a_change_rolls_out_under_load(rollout: Rollout, change: str) -> None:
    """Every job ends; a complete one ran each stage of its own plan, with the right result, and no other."""
    if "removed" in change:
        # Nobody has what was removed once the old version is gone; these tasks need not wait for long.
        rollout.environment["UNKNOWN_TASK_SECONDS"] = "6"
    rollout.roll(*CHANGES[change])
    jobs, runs = rollout.jobs(), rollout.runs()
    plans = {tuple(job.plan.stages) for job in jobs.values()}
    for entity in rollout.emitted:
        job, ran = jobs[entity], runs[entity]
        assert set(ran) <= set(job.plan.stages), (change, entity, ran)
        if job.state is JobState.COMPLETE:
            assert set(ran) == set(job.plan.stages), (change, entity, ran)
            totals = {value for stage in ran.values() for _, value in stage if value is not None}
            assert totals == {3 + len(entity)}, (change, entity, ran)
        else:
            # Only tasks of what the new version has no more: the parts of a split, or a stage.
            assert job.state is JobState.FAILED
            failures = list(rollout.store.listing.failures(job.job_id))
            assert "removed" in change, (change, entity, ran, failures)
    complete = sum(job.state is JobState.COMPLETE for job in jobs.values())
    assert complete >= 2 * EVENTS
    if "stage added" in change:
        assert len(plans) == 2, plans


def test_the_queue_of_an_ordered_stage_cannot_change_while_it_is_used(rollout: Rollout) -> None:
    """The start is refused, and the message has the order of deployment that works."""
    moved = shop(ordered=True).replace("ordered=True)", 'ordered=True, queue="own.fifo")')
    rollout.write("old", shop(ordered=True))
    rollout.write("new", moved)
    rollout.start("old")
    process = subprocess.run(
        [*CELERY, "bridge"],
        env=dict(rollout.environment),
        cwd=rollout.folder / "new",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert process.returncode == 2, process.stderr
    assert "Stage 'book' is ordered and its queue changed from" in process.stderr
    assert "a bridge that sends to it runs" in process.stderr
