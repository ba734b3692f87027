"""The pipeline as one view: its stages from the registry, what lies between them from the health reports."""

import time
from collections.abc import Mapping, Sequence

from config.settings import Settings
from pipeline.health.reports import Report
from pipeline.monitoring.sqs import QueueReading
from pipeline.monitoring.stages import StagesReading
from pipeline.registry import Registry
from pipeline.web.model import Away, PipelineView, Service, StageView, TopicView

#: What the probes are called, and what their services are.
SERVICES: Mapping[str, Service] = {"kafka": "Kafka", "sqs": "SQS", "dynamodb": "DynamoDB"}


def away_since(reports: Mapping[str, Report], since: Mapping[str, float], now: float) -> list[Away]:
    """The services that have a problem, with when it was first seen."""
    return [
        Away(service=service, error=reports[name]["error"], since=since.get(service, now))
        for name, service in SERVICES.items()
        if reports[name].get("error")
    ]


def pipeline_view(
    settings: Settings,
    registry: Registry,
    reports: Mapping[str, Report],
    at_work: StagesReading,
    away: Sequence[Away],
) -> PipelineView:
    """All that is known now."""
    lag = reports["kafka"].get("lag_by_topic", {})
    return PipelineView(
        stages=stage_views(settings, registry),
        topics=[
            TopicView(topic=topic, name=settings.topic(topic), lag=lag.get(settings.topic(topic)))
            for topic in registry.topics
        ],
        queues=_queues(reports["sqs"]),
        at_work=at_work,
        away=away,
        taken_at=time.time(),
    )


def stage_views(settings: Settings, registry: Registry) -> list[StageView]:
    """The stages, in the order of their definition."""
    return [
        StageView(
            stage=stage.name,
            consumes=stage.consumes,
            emits=stage.emits,
            queue=stage.queue or settings.task_queue,
            ordered=stage.ordered,
            split=stage.is_split,
        )
        for stage in registry.by_name.values()
    ]


def _queues(report: Report) -> list[QueueReading]:
    if "messages_available" not in report:
        return []
    depths = {report["queue"]: report, **report.get("other_queues", {})}
    queues = [
        QueueReading(
            name=name,
            role="tasks",
            available=depth["messages_available"],
            in_flight=depth["messages_in_flight"],
            delayed=depth["messages_delayed"],
        )
        for name, depth in depths.items()
    ]
    if report.get("dlq_depth") is not None:
        # All of them wait: what somebody looks at now is back in a minute.
        queues.append(
            QueueReading(
                name=report["dlq"], role="dlq", available=report["dlq_depth"], in_flight=0, delayed=0
            )
        )
    return queues
