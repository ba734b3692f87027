"""A pass of the sweep over very many open jobs: on a table that makes them up, with a clock that jumps.

The clock is moved by requests and waits only. A request takes the round trip, of which eight that are made at
once share one, and the CPU of a request, which they do not share: Python runs one thread at a time. The pass
works for half a minute each minute, as in a bridge.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.capacity.measured import REQUEST_MS
from pipeline.deadletters.openjobs import OpenJobs
from pipeline.deadletters.periodicsweep import EVERY, SHARE
from pipeline.jobs import JobPlan, JobStore, Look, Pass
from pipeline.jobs.dynamodb import REQUESTS_AT_ONCE
from pipeline.jobs.expressions import dump_item
from pipeline.jobs.table import Table
from pipeline.settings import FEWEST_SHARDS, Settings

PLAN = JobPlan(stages={"a": ("c",), "b": ("c",), "c": ("c",)})
#: When the first job was submitted, and the seconds between two.
FIRST, APART = 1e9, 0.001
#: The moment of the sweep: all jobs are idle for long.
NOW = 2e9


class Clock:
    """A clock that jumps, in seconds since 1970."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = NOW

    def now(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds


class ManyJobs:
    """A client of a table with so many open jobs, of each of which a first stage is done."""

    def __init__(self, jobs: int, rtt: float, clock: Clock) -> None:
        self.requests: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._jobs, self._rtt, self._clock = jobs, rtt, clock
        #: The few items that are read alone: the turn with its pass. There is no number of shards.
        self._alone: dict[str, dict[str, Any]] = {}
        self._stage = dump_item(
            {"sk": "S#a", "task_id": "t" * 36, "run_seconds": 0.1, "finished_at": 1e9, "worker": "w@host"}
        )
        self._record = dump_item(
            {
                "sk": "META",
                "state": "running",
                "entity": "customer-1",
                "topic": "orders",
                "plan": PLAN.pairs(),
                "submitted_at": FIRST,
                "updated_at": FIRST,
                "redrives": 0,
                "layout": 2,
                "event": ["kafka:orders", "event"],
            }
        )

    def get_item(self, *, Key: Any, **_: Any) -> Mapping[str, Any]:  # noqa: N803 - as DynamoDB names it
        """An item that is read alone."""
        self._answer("GetItem")
        item = self._alone.get(Key["pk"]["S"])
        return {"Item": item} if item else {}

    def update_item(self, *, Key: Any, **fields: Any) -> Mapping[str, Any]:  # noqa: N803
        """Such an item, written."""
        self._answer("UpdateItem")
        item = self._alone.setdefault(Key["pk"]["S"], {})
        for name, value in re.findall(r"(#\w+) = (:\w+)", fields["UpdateExpression"]):
            attribute = fields["ExpressionAttributeNames"][name]
            item[attribute] = fields["ExpressionAttributeValues"][value]
        return {"Attributes": item}

    def batch_get_item(self, *, RequestItems: Any) -> Mapping[str, Any]:  # noqa: N803
        """The records of jobs."""
        self._answer("BatchGetItem")
        ((table, asked),) = RequestItems.items()
        return {"Responses": {table: [{**self._record, "pk": key["pk"]} for key in asked["Keys"]]}}

    def query(self, *, ExpressionAttributeValues: Any, **fields: Any) -> Mapping[str, Any]:  # noqa: N803
        """The jobs of a partition of the index, or the small items of one job."""
        self._answer("Query")
        pk, low, _ = (value["S"] for value in ExpressionAttributeValues.values())
        if "IndexName" not in fields:
            return {"Items": [{"sk": {"S": "META"}}, self._stage]}
        shard, after = int(pk.rpartition("#")[2]), re.search(r"job-(\d+)", low)
        first = shard if after is None else _next_of(int(after[1]), shard)
        numbers = range(first, self._jobs, FEWEST_SHARDS)[: fields["Limit"]]
        return {"Items": [{"isk": {"S": _moment(number)}} for number in numbers]}

    def _answer(self, operation: str) -> None:
        together = threading.current_thread().name.startswith("dynamodb")
        waits = self._rtt / REQUESTS_AT_ONCE if together else self._rtt
        self._clock.jump(waits + REQUEST_MS.value / 1000)
        with self._lock:
            self.requests[operation] += 1


def run(jobs: int, known: int, rtt: float) -> list[Mapping[str, Any]]:
    """Sweep ``jobs`` open jobs once, after a pass that saw ``known``; return what that took."""
    clock = Clock()
    client: Any = ManyJobs(jobs, rtt / 1000, clock)
    store = JobStore(_settings(), table=Table("jobs", lambda: client), clock=clock.now)
    store.passes.save(Pass(began_at=0.0, ended_at=0.0, open_jobs=known))
    sweep = OpenJobs(store.listing, store.passes, clock.jump, clock=clock.now, wall=clock.now)
    client.requests.clear()
    cpu, began, looks = time.process_time(), clock.now(), 0
    while True:
        begun = clock.now()
        for some in sweep.run(NOW, EVERY * SHARE):
            looks += sum(isinstance(look, Look) for look in store.looks.at(some))
        current = store.passes.load()
        assert current is not None
        if current.after is None:
            break
        clock.jump(max(0.0, begun + EVERY - clock.now()))
    took = clock.now() - began
    # A record is read eventually consistent, half a unit; a look is one unit.
    units = looks + current.open_jobs / 2
    row = {
        "benchmark": "openjobs",
        "jobs": current.open_jobs,
        "looked_at": looks,
        "known": known,
        "rtt_ms": rtt,
        "minutes": round(took / 60, 1),
        "jobs_a_second_in_runs": round(looks / current.worked),
        "requests": sum(client.requests.values()),
        "read_units_a_second_in_runs": round(units / current.worked),
        "read_units_a_second": round(units / took),
        "cpu_seconds": round(time.process_time() - cpu),
    }
    return [row]


def _next_of(number: int, shard: int) -> int:
    """Return the first number after one that is in a partition."""
    return number + 1 + (shard - number - 1) % FEWEST_SHARDS


def _moment(number: int) -> str:
    return f"{FIRST + number * APART:014.3f}#job-{number:09d}"


def _settings() -> Settings:
    return Settings(
        service_name="openjobs",
        kafka_bootstrap_servers="none",
        kafka_consumer_group="none",
        sqs_task_queue_url="http://none/tasks.fifo",
        sqs_dlq_url="http://none/dlq.fifo",
    )
