"""The world that faults share: made when first needed, and again after a fault that broke it."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.faults.__main__ import LONG
from tests.faults.load import Mix
from tests.faults.stack import SESSION, FaultStack, running_stack
from tests.faults.world import Scale, World, running_world

HERE = Path(__file__).parent
#: Seconds that a fault may take, the start of all services included: on a busy machine that alone takes 270.
TIMEOUT = 900

SHORT_SCALE = Scale(
    mix=Mix(entities=6, arrivals=30, parcels=20, crates=6, pieces=4),
    # A client that gets no acknowledgement is replaced after 65 s (pipeline/kafka/producer.py).
    quiet=240,
    group_protocol="consumer",
    large_split=300,
    backlog=200,
    frozen=SESSION,
    outages=3,
    chords=300,
    kills=3,
)
LONG_SCALE = Scale(
    mix=Mix(entities=300, arrivals=1_200, parcels=600, crates=200, pieces=8),
    # The restarts' load alone sleeps for 400 s; a busy machine takes thrice as long.
    quiet=1_800,
    group_protocol="classic",
    large_split=1_000,
    backlog=5_000,
    # Over the minute after which a bridge takes no more behind what it holds (pipeline/bridge/throttle.py).
    frozen=65,
    outages=10,
    chords=10_000,
    kills=20,
)


class Worlds:
    """Holds the current world, or makes a new one."""

    def __init__(
        self,
        stack: FaultStack,
        services: Services,
        make_environment: MakeEnvironment,
        folders: pytest.TempPathFactory,
        scale: Scale,
    ) -> None:
        self._stack = stack
        self._services = services
        self._make_environment = make_environment
        self._folders = folders
        self._scale = scale
        self._open = contextlib.ExitStack()
        self._world: World | None = None

    def current(self) -> World:
        """Return the current world; a new one if a fault broke the last."""
        if self._world is None or self._world.broken:
            self.close()
            self._world = self._open.enter_context(
                running_world(
                    self._stack,
                    self._services,
                    self._make_environment(self._services),
                    self._folders.mktemp("faults"),
                    self._scale,
                )
            )
        return self._world

    def close(self) -> None:
        """End it."""
        self._open.close()
        self._world = None


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line("markers", "long_only: only with --long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect faults of the long suite; give the others the time that a busy machine needs."""
    long = config.pluginmanager.has_plugin(LONG)
    if not long:
        items[:] = [item for item in items if item.get_closest_marker("long_only") is None]
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(TIMEOUT * (10 if long else 1)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how much went through in each fault, and in all."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    figures = {
        report.nodeid.removeprefix("tests/faults/"): dict(report.user_properties)
        for report in reports
        if getattr(report, "when", "") == "teardown"
    }
    faults = {name: each for name, each in figures.items() if "events" in each}
    if not faults:
        return
    columns = ("events", "entities", "parts", "runs", "seconds", "held")
    terminalreporter.write_line("".join(f"{column:>10}" for column in columns) + "  fault")
    for name, each in faults.items():
        terminalreporter.write_line("".join(f"{each[column]:>10,}" for column in columns) + f"  {name}")
    events, parts, runs = (
        sum(each[name] for each in faults.values()) for name in ("events", "parts", "runs")
    )
    entities = max(each["entities"] for each in faults.values())
    held = sum(each["held"] for each in faults.values())
    terminalreporter.write_line(
        f"faults: {len(faults)}; {events:,} events of up to {entities:,} entities and {parts:,} parts, "
        f"{runs:,} runs of user code; all promises held in {held}"
    )


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> Scale:
    """How much goes through."""
    return LONG_SCALE if request.config.pluginmanager.has_plugin(LONG) else SHORT_SCALE


@pytest.fixture(scope="session")
def fault_stack(local_programs: None) -> Iterator[tuple[FaultStack, Services]]:
    """The services of all faults; their Kafka is stopped and started by some."""
    with running_stack() as stack_and_services:
        yield stack_and_services


@pytest.fixture(scope="session")
def worlds(
    fault_stack: tuple[FaultStack, Services],
    make_environment: MakeEnvironment,
    tmp_path_factory: pytest.TempPathFactory,
    scale: Scale,
) -> Iterator[Worlds]:
    """Return the worlds of this session, one at a time."""
    stack, services = fault_stack
    with pytest.MonkeyPatch.context() as patch:
        for name, value in services.environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        worlds = Worlds(stack, services, make_environment, tmp_path_factory, scale)
        try:
            yield worlds
        finally:
            worlds.close()


@pytest.fixture
def world(worlds: Worlds, record_property: Callable[[str, object], None]) -> Iterator[World]:
    """One bridge and two workers at work, and an empty ledger."""
    world = worlds.current()
    world.ready()
    world.begin()
    yield world
    for name, number in world.figures().items():
        record_property(name, number)
    world.end()
