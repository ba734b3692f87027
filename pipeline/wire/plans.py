"""Plans: the stages of a job and how they are joined, pinned when the job is opened. No I/O.

A job may be open while another version of the code is deployed, and both versions may run at once. So a job
is followed by its own plan and never by the stages that a process happens to have loaded (ADR 20). A plan has
an id, a function of its content, that travels in events and tasks: a process that has the plan under that id
needs no read.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Route:
    """One stage as a bridge needs it to make its tasks, without the stage's code."""

    name: str
    #: Logical name of the topic whose events make its tasks.
    consumes: str
    #: Logical name of the topic that takes its results; None for a stage that ends its path.
    emits: str | None = None
    #: Whether an event makes a split, and not a run.
    is_split: bool = False
    #: Whether the tasks of one entity run one at a time, in the order of its events.
    ordered: bool = False
    #: Name of its own queue; None for the service's task queue. A plan does not pin it: a queue that was
    #: replaced has no worker left.
    queue: str | None = None
    #: Whether a record without a value makes a task.
    tombstones: bool = False


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """The stages a job can reach from the topic of its first event."""

    #: Each reachable stage, and the terminal stages at or below it; people are shown stages in this order.
    stages: Mapping[str, tuple[str, ...]]
    #: The same stages as routes; empty in the record of a job that a version before ADR 20 opened.
    routes: Mapping[str, Route] = field(default_factory=dict)

    @property
    def terminals(self) -> frozenset[str]:
        """The stages whose end ends the job."""
        return self.below(self.stages)

    def below(self, stages: Iterable[str]) -> frozenset[str]:
        """Return the terminal stages at or below any of ``stages``."""
        return frozenset(terminal for stage in stages for terminal in self.stages.get(stage, ()))

    def ends_path(self, stage: str) -> bool:
        """Whether nothing of this job follows a stage."""
        return stage in self.stages.get(stage, ())

    def consumers(self, topic: str) -> tuple[Route, ...]:
        """Return the stages of this job that an event on ``topic`` makes a task for."""
        return tuple(route for route in self.routes.values() if route.consumes == topic)

    @cached_property
    def id(self) -> str:
        """The plan's id: the same content always gives the same id."""
        content = json.dumps(self.pairs()) + self.routes_json
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def pairs(self) -> list[list[Any]]:
        """Return the stages as JSON: a list, because a map in DynamoDB has no order."""
        return [[stage, list(terminals)] for stage, terminals in self.stages.items()]

    @cached_property
    def routes_json(self) -> str:
        """The routes as JSON text: a list of values for each stage."""
        return dump_routes(self.routes.values())

    @classmethod
    def read(cls, pairs: Iterable[Sequence[Any]], routes: str = "[]") -> Self:
        """Make a plan of what ``pairs`` and ``routes_json`` gave."""
        return cls(
            stages={stage: tuple(terminals) for stage, terminals in pairs},
            routes={route.name: route for route in load_routes(routes)},
        )


def dump_routes(routes: Iterable[Route]) -> str:
    """Return routes as JSON text: a list of values for each, in the order of ``Route``'s fields."""
    return json.dumps([list(asdict(route).values()) for route in routes], separators=(",", ":"))


def load_routes(text: str) -> tuple[Route, ...]:
    """Read what ``dump_routes`` wrote; fields that a later version added are left out."""
    names = tuple(Route.__dataclass_fields__)
    return tuple(Route(**dict(zip(names, values, strict=False))) for values in json.loads(text))


def plan_from(routes: Iterable[Route], topic: str) -> JobPlan:
    """Return the plan of a job that starts on ``topic``; empty where no stage consumes it.

    Terminal is a stage that emits nothing, or whose topic no stage consumes.
    """
    known = tuple(routes)
    return _plan(known, reachable(known, topic))


def plan_from_stage(routes: Iterable[Route], stage: Route) -> JobPlan:
    """Return the plan of a job that starts at one stage; others that consume its topic are not part of it."""
    known = tuple(routes)
    return _plan(known, (stage, *reachable(known, stage.emits)))


def reachable(routes: Sequence[Route], topic: str | None) -> Iterator[Route]:
    """Yield every stage that an event on ``topic`` can lead to, once each, nearest first."""
    seen: set[str] = set()
    waiting = _consumers(routes, topic)
    while waiting:
        route = waiting.pop(0)
        if route.name in seen:
            continue
        seen.add(route.name)
        yield route
        waiting += _consumers(routes, route.emits)


def _plan(known: Sequence[Route], reached: Iterable[Route]) -> JobPlan:
    routes = {route.name: replace(route, queue=None) for route in reached}
    return JobPlan(
        stages={name: tuple(sorted(_terminals(known, route))) for name, route in routes.items()},
        routes=routes,
    )


def _terminals(routes: Sequence[Route], start: Route) -> set[str]:
    below = (start, *reachable(routes, start.emits))
    return {route.name for route in below if not _consumers(routes, route.emits)}


def _consumers(routes: Sequence[Route], topic: str | None) -> list[Route]:
    return [route for route in routes if topic is not None and route.consumes == topic]
