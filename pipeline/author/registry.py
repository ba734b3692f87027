"""The stages and consumers of a process: their topics, the plan of a job, and how they are joined."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from pipeline.author.consumers import Consumer
from pipeline.author.stages import Stage
from pipeline.author.timing import Tick
from pipeline.author.topicschema import TopicSchema
from pipeline.errors import StageDefinitionError
from pipeline.wire.plans import JobPlan, Route, plan_from

#: The tick that schedules are tried with when stages are loaded.
_SOME_TICK = datetime(2026, 1, 1, tzinfo=UTC)


class Registry:
    """Stages and consumers. ``stage`` and ``consumer`` add to ``REGISTRY``; tests use one of their own."""

    def __init__(self) -> None:
        self._stages: dict[str, Stage[Any, Any]] = {}
        self._consumers: dict[str, Consumer[Any, Any]] = {}

    @property
    def by_name(self) -> Mapping[str, Stage[Any, Any]]:
        """Every stage under its name."""
        return MappingProxyType(self._stages)

    @property
    def consumers(self) -> Mapping[str, Consumer[Any, Any]]:
        """Every consumer under its name."""
        return MappingProxyType(self._consumers)

    @property
    def topics_of_others(self) -> tuple[str, ...]:
        """The name of every topic of others that a consumer reads, in order of appearance."""
        return tuple(dict.fromkeys(consumer.topic for consumer in self._consumers.values()))

    def consumers_on(self, topic: str) -> tuple[Consumer[Any, Any], ...]:
        """Return the consumers of a topic of others."""
        return tuple(consumer for consumer in self._consumers.values() if consumer.topic == topic)

    def consumers_to(self, topic: str) -> tuple[Consumer[Any, Any], ...]:
        """Return the consumers that make events of a topic of the service."""
        return tuple(consumer for consumer in self._consumers.values() if consumer.emits == topic)

    @property
    def topics(self) -> tuple[str, ...]:
        """The logical name of every topic that a stage consumes or emits, in order of appearance."""
        found = {topic: None for stage in self._stages.values() for topic in (stage.consumes, stage.emits)}
        return tuple(topic for topic in found if topic is not None)

    @property
    def consumed_topics(self) -> tuple[str, ...]:
        """The logical name of every topic that a stage consumes."""
        return tuple(dict.fromkeys(stage.consumes for stage in self._stages.values()))

    def stages_on(self, topic: str | None) -> tuple[Stage[Any, Any], ...]:
        """Return the stages that an event on ``topic`` makes a task for."""
        return tuple(stage for stage in self._stages.values() if stage.consumes == topic)

    def emitters(self, topic: str) -> tuple[Stage[Any, Any], ...]:
        """Return the stages that emit to ``topic``."""
        return tuple(stage for stage in self._stages.values() if stage.emits == topic)

    @property
    def scheduled(self) -> tuple[Stage[Any, Any], ...]:
        """The stages with a schedule."""
        return tuple(stage for stage in self._stages.values() if stage.schedule)

    @property
    def topic_schemas(self) -> Mapping[str, TopicSchema]:
        """The schemas that its stages write by, by the logical topic; none of a topic of plain JSON."""
        return {
            stage.emits: stage.topic_schema
            for stage in self._stages.values()
            if stage.emits is not None and stage.topic_schema is not None
        }

    def add(self, stage: Stage[Any, Any]) -> None:
        """Add a stage; refuse a second one of the same name. A reloaded module replaces its own stages."""
        known = self._stages.get(stage.name)
        if known and _origin(known) != _origin(stage):
            raise StageDefinitionError(
                f"{stage.where}: the name {stage.name!r} is taken by {known.where}. Give one of them name=."
            )
        self._stages[stage.name] = stage

    def add_consumer(self, consumer: Consumer[Any, Any]) -> None:
        """Add a consumer; refuse a second one of the same name. A reloaded module replaces its own."""
        known = self._consumers.get(consumer.name)
        if known and _origin(known) != _origin(consumer):
            raise StageDefinitionError(
                f"{consumer.where}: the name {consumer.name!r} is taken by {known.where}. Give one of them "
                "name=."
            )
        self._consumers[consumer.name] = consumer

    def plan(self, topic: str) -> JobPlan:
        """Return the plan of a job that starts on ``topic``; empty when no stage consumes it."""
        return plan_from(self.routes, topic)

    @property
    def routes(self) -> tuple[Route, ...]:
        """Every stage as a route."""
        return tuple(stage.route for stage in self._stages.values())

    def check(self) -> None:
        """Raise ``StageDefinitionError`` where one, or the way they are joined, cannot work."""
        for stage in self._stages.values():
            stage.check()
        for stage in self._stages.values():
            for follower in self.stages_on(stage.emits):
                stage.check_handover(follower)
        for consumer in self._consumers.values():
            consumer.check()
            self._check_consumer(consumer)
        for stage in self.scheduled:
            self._check_ticks(stage)
        self._check_variables()
        self._check_cycles()
        self._check_topic_schemas()
        for topic in self.consumed_topics:
            self._check_emitters(topic)

    def _check_consumer(self, consumer: Consumer[Any, Any]) -> None:
        if consumer.name in self._stages:
            raise StageDefinitionError(
                f"{consumer.where}: {self._stages[consumer.name].where} has the same name, and events name "
                "what made them. Give one of them name=."
            )
        if consumer.topic in self.topics:
            stage = next(s for s in self._stages.values() if consumer.topic in (s.consumes, s.emits))
            raise StageDefinitionError(
                f"{consumer.where}: {consumer.topic!r} is a topic of this service, of {stage.where}. A "
                "consumer reads a topic of others; a stage consumes one of the service."
            )
        if not self.stages_on(consumer.emits):
            known = ", ".join(self.consumed_topics) or "none"
            raise StageDefinitionError(
                f"{consumer.where}: emits={consumer.emits!r}, which no stage of TASK_MODULES consumes. Name "
                f"a topic that one does ({known}); where the stages are others, set CONSUMER_MODULES too."
            )
        for stage in self.stages_on(consumer.emits):
            consumer.check_handover(stage)

    def _check_ticks(self, scheduled: Stage[Any, Any]) -> None:
        """Refuse a schedule whose ticks a stage on their topic cannot take."""
        tick = Tick(schedule=scheduled.name, at=_SOME_TICK)
        try:
            data = scheduled.tick_data(tick)
            for stage in self.stages_on(scheduled.consumes):
                stage.load_input(data)
        except Exception as error:
            raise StageDefinitionError(
                f"{scheduled.where}: the event of its tick at {tick.at:%Y-%m-%dT%H:%M}Z could not run the "
                f"stages on {scheduled.consumes!r}: {error}. Annotate Tick, or make their data with "
                "schedule_data=."
            ) from error

    def _reachable(self, topic: str | None) -> Iterator[Stage[Any, Any]]:
        """Yield every stage that an event on ``topic`` can lead to, once each, nearest first."""
        seen: set[str] = set()
        waiting = list(self.stages_on(topic)) if topic else []
        while waiting:
            stage = waiting.pop(0)
            if stage.name in seen:
                continue
            seen.add(stage.name)
            yield stage
            waiting += self.stages_on(stage.emits) if stage.emits else ()

    def _check_variables(self) -> None:
        variables: dict[str, str] = {}
        for topic in (*self.topics, *self.topics_of_others):
            variable = topic.upper().replace("-", "_").replace(".", "_")
            other = variables.setdefault(variable, topic)
            if other != topic:
                users = [s.where for s in self._stages.values() if {s.consumes, s.emits} & {topic, other}]
                users += [c.where for c in self._consumers.values() if c.topic in (topic, other)]
                raise StageDefinitionError(
                    f"{'; '.join(users)}: the topics {other!r} and {topic!r} are both set by "
                    f"KAFKA_TOPIC_{variable}. Rename one."
                )

    def _check_topic_schemas(self) -> None:
        """Refuse a topic on which two stages write by different schemas: its readers know one."""
        for stage in self._stages.values():
            first = self.emitters(stage.emits)[0] if stage.emits else stage
            if first.format != stage.format:
                raise StageDefinitionError(
                    f"{stage.where}: it emits {stage.emits!r} as {stage.format}, and {first.where} as "
                    f"{first.format}. Give both the same format=."
                )
            if first.topic_schema != stage.topic_schema:
                raise StageDefinitionError(
                    f"{stage.where}: it emits {stage.emits!r} by another schema than {first.where}. "
                    "Annotate both alike."
                )

    def _check_cycles(self) -> None:
        for stage in self._stages.values():
            for below in self._reachable(stage.emits):
                if below is stage:
                    path = " -> ".join(s.name for s in self._path(stage))
                    raise StageDefinitionError(
                        f"{stage.where}: its events come back to it ({path}), so a job would never end. "
                        "Give one of these stages another topic."
                    )

    def _path(self, start: Stage[Any, Any]) -> list[Stage[Any, Any]]:
        """Return the shortest path from a stage back to itself."""
        paths = [[start, stage] for stage in self.stages_on(start.emits)]
        while paths[0][-1] is not start:
            path = paths.pop(0)
            paths += [[*path, stage] for stage in self.stages_on(path[-1].emits) if stage not in path[1:]]
        return paths[0]

    def _check_emitters(self, start: str) -> None:
        emitters: dict[str, Stage[Any, Any]] = {}
        for stage in self._reachable(start):
            if stage.emits is None:
                continue
            other = emitters.setdefault(stage.emits, stage)
            if other is not stage:
                raise StageDefinitionError(
                    f"{stage.where}: one job can reach both it and {other.where}, and both emit "
                    f"{stage.emits!r}, so the stages after it would run twice in that job. Give each its own "
                    "topic."
                )


def _origin(made: Stage[Any, Any] | Consumer[Any, Any]) -> tuple[str, str]:
    return made.function.__module__, made.function.__qualname__


#: The stages and consumers of this process.
REGISTRY = Registry()
