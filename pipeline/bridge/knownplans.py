"""The plans that a bridge makes tasks from: of its own stages and of its service's other deployments."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.wire.plans import JobPlan, Route, plan_from


@dataclass(frozen=True, kw_only=True)
class _Known:
    """One consistent state; replaced as a whole, so that threads need no lock."""

    current: tuple[Route, ...]
    #: By name, the newest route that any deployment has for a stage.
    newest: dict[str, Route]
    #: By id, the plan of each topic in each deployment; and which of them begin on which topic.
    plans: dict[str, JobPlan]
    begin: frozenset[tuple[str, str]]
    #: By topic, and whether the event is a tombstone: the plan of a job that begins now.
    beginning: dict[tuple[str, bool], JobPlan]
    #: By plan and topic, the stages that an event makes tasks for: filled at first use, for each event asks.
    routes: dict[tuple[str, str], tuple[Route, ...]] = field(default_factory=dict)


#: The plan on a topic that no deployment consumes any more; a bridge does until it starts again.
_NOTHING = JobPlan(stages={})


class KnownPlans:
    """Plans by id, and the current deployment's plans for events that begin a job."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """``routes``: of this process's stages; they are current until ``follow`` is called."""
        self._own = tuple(routes)
        self.follow(self._own, ())

    def follow(self, current: Sequence[Route], others: Iterable[Sequence[Route]]) -> None:
        """Make ``current`` the deployment that new jobs belong to; ``others`` may still have open jobs."""
        deployments = [*others, self._own, tuple(current)]
        plans = [
            (topic, plan)
            for routes in deployments
            for topic in _topics(routes)
            for plan in (plan_from(routes, topic), _tombstone_plan(routes, topic))
        ]
        self._known = _Known(
            current=tuple(current),
            newest={route.name: route for routes in deployments for route in routes},
            plans={plan.id: plan for _, plan in plans},
            begin=frozenset((topic, plan.id) for topic, plan in plans),
            beginning={
                (topic, tombstone): make(current, topic)
                for topic in _topics(current)
                for tombstone, make in ((False, plan_from), (True, _tombstone_plan))
            },
        )

    @property
    def topics(self) -> tuple[str, ...]:
        """The logical name of every topic that a stage of any deployment consumes."""
        return _topics(self._known.newest.values())

    def beginning(self, topic: str, plan_id: str | None = None, *, tombstone: bool = False) -> JobPlan:
        """Return the plan of a job that an event on ``topic`` begins now; empty for a topic left behind.

        ``plan_id``: the plan that the event names, taken where jobs with it begin on ``topic``.
        ``tombstone``: the event is one, and reaches only the stages that ask for it.
        """
        known = self._known
        if plan_id and (topic, plan_id) in known.begin:
            return known.plans[plan_id]
        return known.beginning.get((topic, tombstone), _NOTHING)

    def beginning_here(self, topic: str) -> JobPlan:
        """Return the plan of a job that an event of a consumer of this process begins now.

        Its own deployment's where the current one has no stage on ``topic``: consumers are of its version.
        """
        plan = self.beginning(topic)
        return plan if plan.stages else plan_from(self._own, topic)

    def take_tombstones(self, topic: str) -> bool:
        """Whether a stage of any deployment asks for tombstones on ``topic``."""
        return any(route.tombstones and route.consumes == topic for route in self._known.newest.values())

    def queues(self) -> dict[str, frozenset[str | None]]:
        """Return the queues that events of each topic make tasks on, of any known plan.

        None stands for the service's task queue.
        """
        plans = self._known.plans.values()
        return {
            topic: frozenset(route.queue for plan in plans for route in self.routes(plan, topic))
            for topic in self.topics
        }

    def find(self, plan_id: str | None) -> JobPlan | None:
        """Return the plan with this id, if it is known."""
        return self._known.plans.get(plan_id) if plan_id else None

    def routes(self, plan: JobPlan, topic: str) -> tuple[Route, ...]:
        """Return the stages of a job that an event on ``topic`` makes a task for, with today's queues.

        A record without routes (of a version before ADR 20) names its stages; the current deployment has
        their routes.
        """
        known, key = self._known, (plan.id, topic)
        routes = known.routes.get(key)
        if routes is None:
            routes = known.routes[key] = _routes(known, plan, topic)
        return routes


def _routes(known: _Known, plan: JobPlan, topic: str) -> tuple[Route, ...]:
    if plan.routes:
        return tuple(_today(route, known.newest.get(route.name)) for route in plan.consumers(topic))
    return tuple(route for route in known.current if route.consumes == topic and route.name in plan.stages)


def _today(pinned: Route, newest: Route | None) -> Route:
    """Return a pinned route with the queue and the role that its stage has now."""
    return replace(pinned, queue=newest.queue, is_split=newest.is_split) if newest else pinned


def _tombstone_plan(routes: Iterable[Route], topic: str) -> JobPlan:
    return plan_from([route for route in routes if route.consumes != topic or route.tombstones], topic)


def _topics(routes: Iterable[Route]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(route.consumes for route in routes))
