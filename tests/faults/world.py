"""The world of a fault: one service's bridges and workers behind the wire, with load and observer."""

import base64
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
from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient

from pipeline.author.registry import Registry
from pipeline.infra.provision import provision
from pipeline.kafka import KafkaAdmin
from pipeline.services.children import Children, children
from pipeline.services.environment import Services
from pipeline.settings import load_settings
from tests.faults import stages
from tests.faults.load import Input, Load, Mix
from tests.faults.outcome import Observer
from tests.faults.stack import FaultStack
from tests.faults.verifier import CONSUMED, WRITTEN, Violation, verify
from tests.faults.wire import Wire

CELERY = (sys.executable, "-m", "celery", "-A", "pipeline")
SCRIPTS = Path(sysconfig.get_path("scripts"))
COMMANDS = {
    "bridge": (*CELERY, "bridge"),
    "worker": (*CELERY, "worker", "--loglevel", "INFO", "-c", "2"),
    "flower": (*CELERY, "flower", "--address=127.0.0.1", "--port=0"),
    "web": (str(SCRIPTS / "pipeline"), "web", "--port=0"),
    "monitor": (str(SCRIPTS / "pipeline"), "monitor", "kafka", "--watch", "--json"),
}
#: Seconds for a process to be at work.
START = 90.0
#: The output at that moment.
AT_WORK = {
    "bridge": "bridge.assigned",
    "worker": " ready.",
    "flower": "Visit me at",
    "web": "Serving http",
    "monitor": '"lag"',
}
#: Lease seconds: as short as a lease may be with room for a busy machine, so that lost ones are back soon.
LEASE = 5


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The amount of the load, and its time limits."""

    mix: Mix
    #: Seconds that a step may take; for all to come out, seconds since the newest event that was emitted.
    quiet: float
    #: The group protocol of the bridges; the local services' default is "classic".
    group_protocol: str
    #: Parts of a split that is counted in a tree.
    large_split: int
    #: Events of the group that has most.
    backlog: int
    #: Seconds that a bridge is frozen: Kafka takes it for dead meanwhile.
    frozen: float
    #: How often Kafka goes and comes back while processes that watch it run.
    outages: int
    #: Chords of plain tasks, and how often workers are killed while they run (twice).
    chords: int
    kills: int


@dataclass(eq=False, kw_only=True)
class Process:
    """A bridge, a worker, a Flower, a jobs page or a monitor."""

    kind: str
    name: str
    popen: "subprocess.Popen[bytes]"
    log_file: Path

    @property
    def log(self) -> str:
        """Return the process's output."""
        return self.log_file.read_text(errors="replace")

    @property
    def lives(self) -> bool:
        """Whether the process runs."""
        return self.popen.poll() is None

    @property
    def at_work(self) -> bool:
        """Whether the process has begun to take work."""
        return AT_WORK[self.kind] in self.log

    def children(self) -> list[psutil.Process]:
        """Return a worker's child processes."""
        return psutil.Process(self.popen.pid).children(recursive=True)

    def signal(self, number: signal.Signals) -> None:
        """Signal it and all its children."""
        for pid in (self.popen.pid, *(child.pid for child in self.children())):
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).send_signal(number)

    def pause_children(self) -> None:
        """Send SIGSTOP to a worker's children alone."""
        for child in self.children():
            child.send_signal(signal.SIGSTOP)

    def pause(self) -> None:
        """Send SIGSTOP: the process keeps what it holds, and clocks go on."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT."""
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
    #: Whether a fault was not survived; the world is not used again then.
    broken: bool = False
    _started: int = 0
    _verified: bool = True
    _begun: float = 0.0

    # ─── Processes ───

    def ready(self, bridges: int = 1, workers: int = 2) -> None:
        """Wait until that many run and are at work; stop further ones."""
        for kind, count in (("bridge", bridges), ("worker", workers)):
            here = self.of(kind)
            for process in here[count:]:
                self.stop(process)
            for _ in range(count - len(here)):
                self.start(kind)
        self.wait(lambda: all(process.at_work for process in self.alive()), "at work", START)

    def of(self, kind: str) -> list[Process]:
        """Return the running processes of a kind."""
        return [process for process in self.alive() if process.kind == kind]

    def alive(self) -> list[Process]:
        """Return the running processes."""
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
        self,
        kind: str,
        *options: str,
        client: str | None = None,
        output: int | None = None,
        **variables: str,
    ) -> Process:
        """Start a process, without waiting until it is at work.

        ``client``: under which name the wire knows it. ``output``: a descriptor that takes its log instead.
        ``options`` follow its command.
        """
        self._started += 1
        name = f"{kind}-{self._started}"
        log_file = self.folder / f"{name}.log"
        named = ("-n", f"{name}@faults") if kind == "worker" else ()
        with log_file.open("ab") as log:
            popen = self.children.start(
                [*COMMANDS[kind], *named, *options],
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
        """Send kill -9 to a process and its children."""
        self.children.end(process.popen)

    def stop(self, process: Process, timeout: float = 60) -> None:
        """Send SIGTERM, and wait for the end."""
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
        """Wait until runs of an input wrote that many lines."""
        self.wait(lambda: self.effects(what, sent) >= count, f"{count} {what} of {sent.key}", timeout)

    def effects(self, what: str, sent: Input) -> int:
        """Return how many such lines runs of an input wrote."""
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
        """Whether all is at rest, and nothing was written to a consumed topic meanwhile."""
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
        """Wait for a service's time limit, which has no visible sign."""
        time.sleep(seconds)

    # ─── Kafka ───

    def topic_id(self, topic: str) -> bytes:
        """Return the id of a logical topic, as requests carry it."""
        name = self.environment["TOPIC_PREFIX"] + topic
        admin = AdminClient({"bootstrap.servers": self.environment["KAFKA_BOOTSTRAP_SERVERS"]})
        topic_id = admin.describe_topics(TopicCollection([name]))[name].result().topic_id
        return base64.urlsafe_b64decode(f"{topic_id}==")

    # ─── The control plane ───

    def said(self, line: str) -> int:
        """Return how often the running workers logged a text."""
        return sum(worker.log.count(line) for worker in self.of("worker"))

    @contextlib.contextmanager
    def task_events_refused(self) -> Iterator[None]:
        """Let Kafka refuse task events while the block runs; wait until workers notice its start and end."""
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
        """Let the tasks succeed that fail until this call."""
        (self.folder / "mended").touch()

    def cli(self, *arguments: str) -> str:
        """Run a command of this service; return its output."""
        done = subprocess.run(
            [SCRIPTS / "pipeline", *arguments],
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
        """Redrive a dead letter; again if it was hidden because the sweep looked at it."""
        command = ("dlq", "redrive", "--job", sent.job_id, "--yes", "--out-of-order", "--json")
        self.wait(lambda: '"redriven"' in self.cli(*command), f"{sent.key} is redriven")

    # ─── The proof ───

    def begin(self) -> None:
        """Begin a fault with an empty ledger."""
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
        """Wait until all is at rest; then every invariant must hold. ``runs`` as in ``verifier.verify``."""
        self.settle()
        if violations := self.violations(runs=runs):
            text = "\n".join(str(violation) for violation in violations[:40])
            self.broken = True
            raise AssertionError(f"{len(violations)} violations:\n{text}\n{self.log_tail()}")
        self._verified = True

    def violations(self, *, runs: int | None = None) -> list[Violation]:
        """Return the invariants that do not hold now."""
        assert self.load.ledger, "nothing went in: the test proves nothing"
        jobs = [each.job_id for each in self.load.ledger]
        return verify(self.load.ledger, self.observer.look(jobs), runs=runs)

    def figures(self) -> dict[str, int]:
        """Return the figures of this fault: how much, how long, and whether (1, 0) every invariant held."""
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
        """End the fault; without a verification the world counts as broken."""
        self.broken = self.broken or not self._verified

    def log_tail(self) -> str:
        """Return the end of the processes' logs."""
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
        "TASK_MODULES": "tests.faults.stages,tests.faults.chordtasks",
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
    list(provision(settings, faults_registry()))
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


def faults_registry() -> Registry:
    """Return the stages of the load."""
    registry = Registry()
    for stage in (stages.admit, stages.weigh, stages.ship, stages.count_crate):
        registry.add(stage)
    return registry
