"""The world of a fault: one service's bridges and workers behind the wire, its load, and who looks on."""

import contextlib
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from config.settings import load_settings
from pipeline.kafka import KafkaAdmin
from pipeline.provision import provision
from pipeline.registry import Registry
from pipeline.services.children import Children, children
from pipeline.services.environment import Services
from tests.faults import stages
from tests.faults.load import Input, Load, Mix
from tests.faults.outcome import Observer
from tests.faults.stack import FaultStack
from tests.faults.verifier import CONSUMED, WRITTEN, Violation, verify
from tests.faults.wire import Wire

CELERY = (sys.executable, "-m", "celery", "-A", "pipeline")
COMMANDS = {
    "bridge": (*CELERY, "bridge"),
    "worker": (*CELERY, "worker", "--loglevel", "INFO", "-c", "2"),
    "flower": (*CELERY, "flower", "--address=127.0.0.1", "--port=0"),
}
#: Seconds that a process may take until it is at work.
START = 90.0
#: What it says then.
AT_WORK = {"bridge": "bridge.assigned", "worker": " ready.", "flower": "Visit me at"}
#: Lease seconds: as short as a lease may be with room for a busy machine, so that lost ones are back soon.
LEASE = 5


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much goes through, and how long it may take."""

    mix: Mix
    #: Seconds that a step may take; for all to come out, seconds since the newest event that was emitted.
    quiet: float
    #: What the bridges speak; the local services' default is "classic".
    group_protocol: str
    #: Parts of a split that is counted in a tree.
    large_split: int
    #: Events of the group that has most.
    backlog: int
    #: Seconds that a bridge is frozen: Kafka takes it for dead meanwhile.
    frozen: float


@dataclass(eq=False, kw_only=True)
class Process:
    """A bridge, a worker or a Flower."""

    kind: str
    name: str
    popen: "subprocess.Popen[bytes]"
    log_file: Path

    @property
    def log(self) -> str:
        """What it wrote."""
        return self.log_file.read_text(errors="replace")

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self.popen.poll() is None

    @property
    def at_work(self) -> bool:
        """Whether it has begun to take work."""
        return AT_WORK[self.kind] in self.log

    def children(self) -> list[psutil.Process]:
        """A worker's pool."""
        return psutil.Process(self.popen.pid).children(recursive=True)

    def signal(self, number: signal.Signals) -> None:
        """Signal it and all its children."""
        for pid in (self.popen.pid, *(child.pid for child in self.children())):
            with contextlib.suppress(ProcessLookupError):
                psutil.Process(pid).send_signal(number)

    def pause_children(self) -> None:
        """SIGSTOP to a worker's pool alone."""
        for child in self.children():
            child.send_signal(signal.SIGSTOP)

    def pause(self) -> None:
        """SIGSTOP: it holds what it holds, and its clock goes on."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on as if nothing had been."""
        self.signal(signal.SIGCONT)


@dataclass(kw_only=True)
class World:
    """One service. Processes that a fault ended are started again for the next."""

    environment: Mapping[str, str]
    stack: FaultStack
    wire: Wire
    urls: Mapping[str, Mapping[str, str]]
    observer: Observer
    folder: Path
    scale: Scale
    children: Children
    processes: list[Process] = field(default_factory=list)
    load: Load = field(init=False)
    #: Whether a fault was not survived: nothing is to be proved here any more.
    broken: bool = False
    _started: int = 0
    _verified: bool = True
    _begun: float = 0.0

    # ─── Processes ───

    def ready(self, bridges: int = 1, workers: int = 2) -> None:
        """Have so many run and be at work; more are stopped."""
        for kind, count in (("bridge", bridges), ("worker", workers)):
            here = self.of(kind)
            for process in here[count:]:
                self.stop(process)
            for _ in range(count - len(here)):
                self.start(kind)
        self.wait(lambda: all(process.at_work for process in self.alive()), "at work", START)

    def of(self, kind: str) -> list[Process]:
        """Those of a kind that run."""
        return [process for process in self.alive() if process.kind == kind]

    def alive(self) -> list[Process]:
        """Those that run."""
        return [process for process in self.processes if process.lives]

    @property
    def bridge(self) -> Process:
        """The first bridge."""
        return self.of("bridge")[0]

    @property
    def worker(self) -> Process:
        """The first worker."""
        return self.of("worker")[0]

    def start(
        self, kind: str, *, client: str | None = None, output: int | None = None, **variables: str
    ) -> Process:
        """Start one; it is not at work yet.

        ``client``: under which name the wire knows it. ``output``: a descriptor that takes its log instead.
        """
        self._started += 1
        name = f"{kind}-{self._started}"
        log_file = self.folder / f"{name}.log"
        named = ("-n", f"{name}@faults") if kind == "worker" else ()
        with log_file.open("ab") as log:
            popen = self.children.start(
                [*COMMANDS[kind], *named],
                environment={**self.environment_of(client or kind), **variables},
                output=log if output is None else output,
            )
        process = Process(kind=kind, name=name, popen=popen, log_file=log_file)
        self.processes.append(process)
        return process

    def environment_of(self, client: str) -> dict[str, str]:
        """The environment of a process that the wire knows as ``client``."""
        if client not in self.urls:
            self.urls = {**self.urls, client: self.wire.open(client)}
        environment = dict(self.environment)
        for server, url in self.urls[client].items():
            old = self.environment[f"AWS_ENDPOINT_URL_{server.upper()}"]
            for name in (f"AWS_ENDPOINT_URL_{server.upper()}", "SQS_TASK_QUEUE_URL", "SQS_DLQ_URL"):
                environment[name] = environment[name].replace(old, url)
        return environment

    def kill(self, process: Process) -> None:
        """kill -9, with its children at once."""
        self.children.end(process.popen)

    def stop(self, process: Process, timeout: float = 60) -> None:
        """SIGTERM, and wait for its end."""
        process.popen.terminate()
        try:
            code = process.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{process.name} does not end:\n{process.log[-4000:]}") from None
        finally:
            self.children.end(process.popen)
        assert code == 0, f"{process.name} ended with {code}:\n{process.log[-4000:]}"

    # ─── Waiting ───

    def wait(self, condition: Any, what: str, timeout: float | None = None) -> None:
        """Wait until ``condition()``."""
        deadline = time.monotonic() + (timeout or self.scale.quiet)
        while not condition():
            assert time.monotonic() < deadline, f"not in time: {what}\n{self.log_tail()}"
            time.sleep(0.1)

    def wait_effect(self, what: str, sent: Input, count: int = 1, timeout: float | None = None) -> None:
        """Wait until runs of an input left so many lines."""
        self.wait(lambda: self.effects(what, sent) >= count, f"{count} {what} of {sent.key}", timeout)

    def effects(self, what: str, sent: Input) -> int:
        """How many such lines runs of an input left."""
        return sum(line["what"] == what and line["key"] == sent.key for line in self.observer.effects())

    def settle(self) -> None:
        """Wait until nothing is under way: no lag, nothing on the queue, no job that runs."""
        written, deadline = -1, 0.0
        while not self.is_quiet():
            so_far, now = self.observer.written_so_far(), time.monotonic()
            if so_far != written:
                written, deadline = so_far, now + self.scale.quiet
            if now > deadline:
                return  # the verifier says what is missing
            time.sleep(0.2)

    def is_quiet(self) -> bool:
        """A moment at which all was at rest: nothing was written to a consumed topic meanwhile."""
        if any(self.observer.depth()):
            return False
        before = self.observer.written_so_far()
        if any(self.observer.lag().values()):
            return False
        ended = {read.job_id for topic in ("jobs", "errors") for read in self.observer.records(topic)}
        if any(each.job_id not in ended for each in self.load.ledger if each.fate != "rejected"):
            return False
        return not any(self.observer.depth()) and self.observer.written_so_far() == before

    @staticmethod
    def pass_time(seconds: float) -> None:
        """Let a time limit of a service run out: there is nothing to see until it has."""
        time.sleep(seconds)

    # ─── The control plane ───

    def said(self, line: str) -> int:
        """How often workers that run said so in their logs."""
        return sum(worker.log.count(line) for worker in self.of("worker"))

    @contextlib.contextmanager
    def task_events_refused(self) -> Iterator[None]:
        """Kafka takes no task events while the block runs: workers know it then, and know when it is over."""
        settings = load_settings(self.environment)
        topic, admin = settings.control_topics[0], KafkaAdmin(settings)
        size = "max.message.bytes"
        usual = admin.configs([topic])[topic][size]
        lost, found = self.said("control.unreachable"), self.said("control.reachable_again")
        admin.configure(topic, {size: "1"})
        try:
            self.wait(lambda: self.said("control.unreachable") > lost, "a refused event")
            yield
        finally:
            admin.configure(topic, {size: usual})
        self.wait(lambda: self.said("control.reachable_again") > found, "an event that is taken again")

    # ─── A person ───

    def mend(self) -> None:
        """What was wrong with tasks that fail until it is mended."""
        (self.folder / "mended").touch()

    def cli(self, *arguments: str) -> str:
        """Run a command of this service; what it prints."""
        done = subprocess.run(
            [Path(sysconfig.get_path("scripts")) / "pipeline", *arguments],
            env=self.environment_of("person"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def redrive(self, sent: Input) -> None:
        """Redrive its dead letter; again, where it was not in sight because the sweep looked at it too."""
        command = ("dlq", "redrive", "--job", sent.job_id, "--yes", "--out-of-order", "--json")
        self.wait(lambda: '"redriven"' in self.cli(*command), f"{sent.key} is redriven")

    # ─── The proof ───

    def begin(self) -> None:
        """A new fault: a ledger of its own."""
        self.observer.forget()
        self.load = Load(
            bootstrap=self.environment["KAFKA_BOOTSTRAP_SERVERS"],
            prefix=self.environment["TOPIC_PREFIX"],
            mix=self.scale.mix,
        )
        (self.folder / "mended").unlink(missing_ok=True)
        self._verified = False
        self._begun = time.monotonic()

    def verify(self, *, runs: int | None = None) -> None:
        """Wait until all is at rest; then every promise must hold. ``runs`` as in ``verifier.verify``."""
        self.settle()
        if violations := self.violations(runs=runs):
            text = "\n".join(str(violation) for violation in violations[:40])
            self.broken = True
            raise AssertionError(f"{len(violations)} violations:\n{text}\n{self.log_tail()}")
        self._verified = True

    def violations(self, *, runs: int | None = None) -> list[Violation]:
        """What does not hold now."""
        assert self.load.ledger, "nothing went in: the test proves nothing"
        jobs = [each.job_id for each in self.load.ledger]
        return verify(self.load.ledger, self.observer.look(jobs), runs=runs)

    def figures(self) -> dict[str, int]:
        """How much went through during this fault, how long it took, whether (1, 0) every promise held."""
        ledger = self.load.ledger
        return {
            "events": len(ledger),
            "entities": len({each.entity for each in ledger}),
            "parts": sum(each.parts for each in ledger),
            "runs": sum(line["what"] == "start" for line in self.observer.effects()),
            "seconds": round(time.monotonic() - self._begun),
            "held": int(self._verified),
        }

    def end(self) -> None:
        """The fault is over; one that was not verified leaves a world that nothing is known of."""
        self.broken = self.broken or not self._verified

    def log_tail(self) -> str:
        """The end of what the processes wrote."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in self.folder.glob("*.log")
        )


@contextlib.contextmanager
def running_world(
    stack: FaultStack, services: Services, environment: Mapping[str, str], folder: Path, scale: Scale
) -> Iterator[World]:
    """A world without processes yet, on names of its own. ``environment`` reaches the services directly."""
    environment = {
        **environment,
        "TASK_MODULES": "tests.faults.stages",
        "KAFKA_TOPIC_ERRORS": environment["TOPIC_PREFIX"] + "errors",
        "KAFKA_TOPIC_DLQ": environment["TOPIC_PREFIX"] + "dlq",
        "FAULTS_EFFECTS": str(folder / "effects"),
        "KAFKA_GROUP_PROTOCOL": scale.group_protocol,
        "SQS_LEASE_SECONDS": str(LEASE),
        "MAX_RETRIES": "2",
        "UNKNOWN_TASK_SECONDS": "2",
        "RETRY_DELAY": "0.3",
        "TASK_TIME_LIMIT": "60",
    }
    settings = load_settings(environment)
    list(provision(settings, _registry()))
    servers = {name: environment[f"AWS_ENDPOINT_URL_{name.upper()}"] for name in ("sqs", "dynamodb")}
    keys = {"region_name": "us-east-1", "aws_access_key_id": "local", "aws_secret_access_key": "local"}
    observer = Observer(
        service=settings.service_name,
        bootstrap=settings.kafka_bootstrap_servers,
        prefix=settings.topic_prefix,
        group=settings.kafka_consumer_group,
        queue_url=settings.sqs_task_queue_url,
        dlq_url=settings.sqs_dlq_url,
        table=settings.dynamodb_table,
        consumed=CONSUMED,
        written=WRITTEN,
        effects_file=folder / "effects",
        aws={name: {**keys, "endpoint_url": url} for name, url in servers.items()},
    )
    with Wire(servers).running() as wire, children() as started, contextlib.closing(observer):
        world = World(
            environment=environment,
            stack=stack,
            wire=wire,
            urls={},
            observer=observer,
            folder=folder,
            scale=scale,
            children=started,
        )
        try:
            yield world
        finally:
            for process in world.alive():
                world.kill(process)


def _registry() -> Registry:
    registry = Registry()
    for stage in (stages.admit, stages.weigh, stages.ship, stages.count_crate):
        registry.add(stage)
    return registry
