"""Faults of schedules: the bridge with the turn is killed again and again; each tick runs once."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.infra.provision import provision
from pipeline.services.children import Children, children
from pipeline.services.environment import Services
from pipeline.settings import load_settings
from pipeline.wire import identity
from tests.conftest import MakeEnvironment
from tests.faults import clockwork
from tests.faults.mishaps import Hold
from tests.faults.stack import FaultStack
from tests.faults.wire import Wire
from tests.faults.world import Scale
from tests.ownstages import stages_of

CELERY = (sys.executable, "-m", "celery", "-A", "pipeline")
#: Seconds for a bridge to fire after another one was killed, on a busy machine.
PATIENCE = 120.0


@dataclass
class Clockwork:
    """One service with schedules: its bridges behind the wire, and a worker."""

    environment: dict[str, str]
    wire: Wire
    folder: Path
    children: Children
    bridges: "list[tuple[subprocess.Popen[bytes], Path]]" = field(default_factory=list)

    def start(self) -> None:
        """Start a bridge."""
        log_file = self.folder / f"bridge-{len(self.bridges)}.log"
        with log_file.open("ab") as log:
            bridge = self.children.start([*CELERY, "bridge"], environment=self.environment, output=log)
        self.bridges.append((bridge, log_file))

    @property
    def alive(self) -> "list[tuple[subprocess.Popen[bytes], Path]]":
        return [each for each in self.bridges if each[0].poll() is None]

    def holder(self) -> "subprocess.Popen[bytes] | None":
        """Return the bridge that took the turn last, if it runs."""
        took = [
            (line["timestamp"], bridge)
            for bridge, log_file in self.bridges
            for text in log_file.read_text().splitlines()
            if '"schedules.turn"' in text
            for line in [json.loads(text)]
        ]
        last = max(took, key=lambda each: each[0])[1] if took else None
        return last if last is not None and last.poll() is None else None

    def kill_holder(self) -> None:
        """Send kill -9 to the bridge with the turn."""
        self.wait(lambda: self.holder() is not None, "a bridge has the turn")
        holder = self.holder()
        assert holder is not None
        self.children.end(holder)

    def ran(self, what: str) -> Counter[str]:
        """Return how often each tick ran."""
        path = self.folder / "effects"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        return Counter(line["tick"] for line in whole if line["what"] == what)

    def wait_ticks(self, count: int) -> None:
        """Wait until so many more ticks ran, of both kinds."""
        before = {what: len(self.ran(what)) for what in ("strike", "chime")}
        self.wait(
            lambda: all(len(self.ran(what)) >= number + count for what, number in before.items()),
            f"{count} more ticks",
        )

    def wait(self, condition: "object", what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, f"not in time: {what}\n{self.log_tail()}"
            time.sleep(0.1)

    def log_tail(self) -> str:
        return "\n".join(f"--- {p.name}\n{p.read_text()[-3000:]}" for p in self.folder.glob("*.log"))

    def verify(self) -> None:
        """Every tick from the first to the last ran, once, and nothing else did."""
        strikes, chimes = self.ran("strike"), self.ran("chime")
        moments = sorted(map(int, strikes))
        every = range(moments[0], moments[-1] + 1, clockwork.INTERVAL)
        assert moments == list(every)
        service = self.environment["SERVICE_NAME"]
        ids = {identity.scheduled_task_id(service, "chime", tick): tick for tick in every}
        # The first and the last of both kinds may not be the same.
        ticks = sorted(ids[task_id] for task_id in chimes if task_id in ids)
        assert ticks == list(range(ticks[0], ticks[-1] + 1, clockwork.INTERVAL))
        assert len(chimes) <= len(ticks) + 2
        assert set(strikes.values()) == set(chimes.values()) == {1}


@pytest.fixture(scope="module")
def clock(
    fault_stack: tuple[FaultStack, Services],
    make_environment: MakeEnvironment,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Clockwork]:
    """Two bridges and a worker of a service whose stage and task strike every two seconds."""
    _, services = fault_stack
    folder = tmp_path_factory.mktemp("schedules")
    direct = {
        **make_environment(services, TASK_MODULES=clockwork.__name__),
        "FAULTS_EFFECTS": str(folder / "effects"),
        "KAFKA_GROUP_PROTOCOL": "consumer",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in direct.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        list(provision(load_settings(direct), stages_of(clockwork.__name__)))
    servers = {name: direct[f"AWS_ENDPOINT_URL_{name.upper()}"] for name in ("sqs", "dynamodb")}
    with Wire(servers).running() as wire, children() as started:
        environment = dict(direct)
        for server, url in wire.open("bridge").items():
            name = f"AWS_ENDPOINT_URL_{server.upper()}"
            for each in (name, "SQS_TASK_QUEUE_URL", "SQS_DLQ_URL"):
                environment[each] = environment[each].replace(direct[name], url)
        clock = Clockwork(environment, wire, folder, started)
        clock.start()
        clock.start()
        with (folder / "worker.log").open("ab") as log:
            worker = [*CELERY, "worker", "--loglevel", "INFO", "-c", "2"]
            started.start(worker, environment=direct, output=log)
        clock.wait_ticks(2)
        yield clock


def test_the_bridge_with_the_turn_is_killed_again_and_again(clock: Clockwork, scale: Scale) -> None:
    """Another one goes on with the next tick, or with the one that the dead bridge had begun."""
    for _ in range(scale.outages):
        clock.kill_holder()
        clock.start()
        clock.wait_ticks(2)
    clock.wait_ticks(3)
    clock.verify()


@pytest.mark.parametrize(
    ("action", "holding", "after"),
    [
        pytest.param("BatchExecuteStatement", "", False, id="before its job is opened"),
        pytest.param("BatchExecuteStatement", "", True, id="job opened, event not sent"),
        pytest.param("SendMessageBatch", "celery_beat_task", False, id="before its task is sent"),
        pytest.param("SendMessageBatch", "celery_beat_task", True, id="task sent, not recorded"),
        pytest.param("UpdateItem", "/S", False, id="fired, not recorded"),
        pytest.param("UpdateItem", "/S", True, id="recorded, unknown to the bridge"),
    ],
)
def test_it_is_killed_at_a_step(clock: Clockwork, action: str, holding: str, after: bool) -> None:
    """What the next one fires again has the same ids, and runs once."""
    hold = Hold(after=after)
    text = f'{clock.environment["SERVICE_NAME"]}/S"' if holding == "/S" else holding
    with clock.wire.rule(hold, action, client="bridge", holding=text):
        hold.wait()
        clock.kill_holder()
        hold.let_go()
    clock.start()
    clock.wait_ticks(3)
    clock.verify()
