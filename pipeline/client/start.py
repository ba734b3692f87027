"""The start of jobs: a topic, and the stages below it, by the code at hand or by what the bridges run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.author.registry import Registry
from pipeline.errors import InvalidEventError
from pipeline.jobs.deployments import Deployment
from pipeline.wire.plans import JobPlan, Route, plan_from


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where jobs begin."""

    #: Logical name of the topic.
    topic: str
    #: The stages of the service, as far as they are known here.
    routes: tuple[Route, ...]

    @property
    def consumers(self) -> tuple[Route, ...]:
        """The stages that the first event of a job makes a task for."""
        return tuple(route for route in self.routes if route.consumes == self.topic)

    @property
    def plan(self) -> JobPlan:
        """The plan of a job that begins here."""
        return plan_from(self.routes, self.topic)


def find_start(
    registry: Registry, name: str, deployments: Callable[[], Sequence[Deployment]] | None = None
) -> Start:
    """Return the start that a stage or a topic is; raise ``InvalidEventError`` with the known ones.

    ``deployments`` is asked for a name that the code at hand does not have; None: that code is all there is.
    """
    own = registry.routes
    topic = _topic(own, name)
    if topic is not None:
        return Start(topic=topic, routes=own)
    newest_first = sorted(deployments() if deployments else (), key=lambda each: each.seen_at, reverse=True)
    for deployment in newest_first:
        if (topic := _topic(deployment.routes, name)) is not None:
            return Start(topic=topic, routes=deployment.routes)
    known = (*own, *(route for deployment in newest_first[:1] for route in deployment.routes))
    stages = ", ".join(sorted({route.name for route in known})) or "none"
    topics = ", ".join(sorted({route.consumes for route in known})) or "none"
    raise InvalidEventError(
        f"No stage is called {name!r}, and none consumes a topic of that name. "
        f"Stages: {stages}. Topics: {topics}. "
        + (
            "They are those that this process imported, and those that the bridges of SERVICE_NAME run."
            if deployments
            else "TASK_MODULES says where stages are looked for."
        )
    )


def _topic(routes: Sequence[Route], name: str) -> str | None:
    for route in routes:
        if route.name == name:
            return route.consumes
    return name if any(route.consumes == name for route in routes) else None
