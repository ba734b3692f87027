"""The cost of a whole job: AWS requests and units exactly those of the ledger, CPU within a bound."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fill import emit_all, first_event
from benchmarks.flow import SHAPES, Running, running
from benchmarks.ground import Ground, make_ground
from benchmarks.measure import spawn
from benchmarks.peers import ours
from benchmarks.stages import double
from benchmarks.units import read_units, write_units
from benchmarks.yardstick import yardstick
from pipeline.author.stages import Stage
from pipeline.capacity import Shape, bill, steps_of
from pipeline.celery import make_app
from pipeline.jobs import JobState, JobStore
from pipeline.services.environment import Services
from tests.faults.wire import Answer, Passage, Wire
from tests.integration import gatedparts
from tests.processes import wait_until

#: Modules with tasks of the worker.
MODULES = "benchmarks.stages,tests.integration.gatedparts,tests.integration.chores"

#: CPU of one of many split jobs, of bridge and worker with its children, as a multiple of the yardstick's: 7
#: on a machine that does nothing else. Other tests at work on the same caches make it 1.8 times as much.
CPU_LIMIT = 2.5 * 7.0

#: Jobs of a round that measures it; those before the first, which warm up; and rounds, of which one must do.
ROUND, WARM_UP, ROUNDS = 40, 20, 3


class Bill(Counter[str]):
    """Requests by operation, and units, of processes that run jobs.

    Not counted are receives and queue depths, whose number depends on time, and what a service asks without a
    job.
    """

    #: Requests on their way, not added yet: a server shows what one did before its answer has passed.
    under_way = 0

    async def add(self, passage: Passage) -> Answer | None:
        """Add a request that passes."""
        if not _of_a_job(passage):
            return await passage.forward()
        self.under_way += 1
        try:
            answer = await passage.forward()
            self[passage.action] += 1
            asked = passage.action, passage.text.encode(), answer.body
            self["write units"] += int(sum(write_units(*asked).values()))
            self["read units"] += int(read_units(*asked))
            return answer
        finally:
            self.under_way -= 1


def _of_a_job(passage: Passage) -> bool:
    """Whether a request is about a job, not about the service: its queue, versions, shards and duties."""
    if passage.server == "sqs":
        return passage.action not in ("ReceiveMessage", "GetQueueAttributes")
    if passage.action.startswith("Describe") or "IndexName" in passage.text:
        return False
    return not any(key in passage.text for key in ('/V"', '/C"', '/I"', "/U#"))


@dataclass(frozen=True)
class Counted:
    """A bridge and a worker with one child, and the bill of both."""

    ground: Ground
    bill: Bill
    store: JobStore

    def start(self, stage: Stage[Any, Any], data: bytes) -> str:
        """Start a job; return its id."""
        event = first_event(stage.consumes, data)
        emit_all(self.ground, [event])
        return str(event.job_id)

    def wait(self, job_id: str) -> None:
        """Wait until a job is complete, its last message deleted, and all of that on the bill."""
        wait_until(
            lambda: self._complete(job_id) and not self.bill.under_way, f"job {job_id} is complete and billed"
        )

    def left(self) -> int:
        """Return the number of messages on the queue, running ones included."""
        depth = self.ground.queue.depth()
        return depth.available + depth.in_flight

    def _complete(self, job_id: str) -> bool:
        job = self.store.records.get(job_id)
        return job is not None and job.state is JobState.COMPLETE and self.left() == 0


@pytest.fixture(scope="module")
def services(embedded_services: Services) -> Iterator[Services]:
    """The embedded services; this process uses them, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in embedded_services.environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        yield embedded_services


@pytest.fixture(scope="module")
def counted(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    """A bridge and a worker that have run a job."""
    ground, folder, bill = make_ground(services), tmp_path_factory.mktemp("cost"), Bill()
    with Wire(ground.servers).running() as wire, ExitStack() as stack:
        stack.enter_context(wire.rule(bill.add))
        # A lease so long that nothing extends it while a test waits.
        own = {"TASK_MODULES": MODULES, "SQS_LEASE_SECONDS": "600"}
        for name, command in (("bridge", ours.BRIDGE), ("worker", (*ours.WORKER, "-c", "1"))):
            environment = ground.environment_through(wire.open(name)) | own
            stack.enter_context(spawn(command, environment, folder / name))
        counted = Counted(ground, bill, JobStore(ground.settings))
        counted.wait(counted.start(double, b"1"))
        yield counted


def run_gated(counted: Counted, folder: Path) -> None:
    """Run a split job, each part ended when the one before is settled."""
    parts = [folder / str(number) for number in range(gatedparts.PARTS)]
    job_id = counted.start(gatedparts.gated_begin, b'"%s"' % str(folder).encode())
    for left in range(gatedparts.PARTS, 0, -1):
        wait_until(partial(_one_runs, counted, parts, left), f"{left} parts are left, one runs")
        _running(parts)[0].with_suffix(".open").touch()
    counted.wait(job_id)


def _one_runs(counted: Counted, parts: Sequence[Path], left: int) -> bool:
    """Whether a part runs, and no more than ``left`` messages, its own among them, are on the queue."""
    return bool(_running(parts)) and counted.left() == left


def _running(parts: Sequence[Path]) -> list[Path]:
    return [
        each
        for each in parts
        if each.with_suffix(".runs").exists() and not each.with_suffix(".open").exists()
    ]


def test_a_job_of_three_stages(counted: Counted) -> None:
    """Each of its three tasks is sent, recorded and deleted; the job is opened and closed."""
    counted.bill.clear()
    counted.wait(counted.start(double, b"1"))
    # ``+``: without zeros.
    assert +counted.bill == bill(steps_of(Shape(stages=3)))


def test_a_split_job(counted: Counted, tmp_path: Path) -> None:
    """A stage, a split, four parts that are settled one by one, a gather, a stage."""
    counted.bill.clear()
    run_gated(counted, tmp_path)
    assert +counted.bill == bill(steps_of(Shape(stages=3, parts=gatedparts.PARTS, size=1)))


def test_a_plain_task(counted: Counted) -> None:
    """It is sent and deleted, and DynamoDB is not asked for anything."""
    counted.bill.clear()
    app = make_app(counted.ground.settings)
    app.signature("tests.integration.chores.add", args=(1, 2)).apply_async()
    wait_until(lambda: counted.left() == 0 and not counted.bill.under_way, "the task is deleted and billed")
    # This process sent it, past what counts.
    assert counted.bill + Counter({"SendMessageBatch": 1}) == bill(steps_of(Shape(stages=0)))


def test_the_cpu_of_a_split_job(services: Services) -> None:
    """One of a few rounds is within the limit: what else the machine does costs CPU time here, too."""
    ground = make_ground(services)
    with (
        ours.flowing(ground, SHAPES["split"]) as flow,
        running(flow, ground.environment) as processes,
    ):
        flow.submit(WARM_UP)
        processes.wait(WARM_UP)
        measured: list[float] = []
        while len(measured) < ROUNDS and not any(cpu <= CPU_LIMIT for cpu in measured):
            begun = WARM_UP + len(measured) * ROUND
            flow.submit(ROUND)
            measured.append(cpu_of(processes, begun + ROUND) / ROUND)
    assert min(measured) <= CPU_LIMIT, measured


def cpu_of(processes: Running, jobs: int) -> float:
    """Return the CPU until that many jobs are done since the start, as a multiple of the yardstick's."""
    before = sum(processes.cpu_ms().values())
    with yardstick() as measured:
        processes.wait(jobs)
    return (sum(processes.cpu_ms().values()) - before) / measured.ms
