"""``/metrics``: what this process counted, and how its dependencies are."""

from collections.abc import Mapping

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from config.settings import Settings
from pipeline.health.access import guard
from pipeline.health.probe import Probe
from pipeline.health.reports import DEGRADED, HEALTHY, Report
from pipeline.telemetry import metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LEVELS = {HEALTHY: 1.0, DEGRADED: 0.5}
_STATES = ("available", "in_flight", "delayed")


def metrics_router(settings: Settings, probes: Mapping[str, Probe]) -> APIRouter:
    """``/metrics``, for those whom ``guard`` lets through."""
    router = APIRouter(dependencies=[Depends(guard(settings))])

    @router.get("/metrics")
    async def read() -> Response:
        for name, probe in probes.items():
            report = await probe.report()
            metrics.DEPENDENCY.labels(name).set(_LEVELS.get(report["status"], 0.0))
            _SETTERS.get(name, _nothing)(report)
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    return router


def _set_lag(report: Report) -> None:
    # What cannot be told now is not told as it was.
    metrics.LAG.clear()
    for topic, events in report.get("lag_by_topic", {}).items():
        metrics.LAG.labels(topic).set(events)


def _set_depths(report: Report) -> None:
    metrics.QUEUE_MESSAGES.clear()
    if "messages_available" not in report:
        return
    for name, depths in {report["queue"]: report, **report.get("other_queues", {})}.items():
        for state in _STATES:
            metrics.QUEUE_MESSAGES.labels(name, state).set(depths[f"messages_{state}"])
    if report.get("dlq_depth") is not None:
        metrics.QUEUE_MESSAGES.labels(report["dlq"], "dead").set(report["dlq_depth"])


def _nothing(_: Report) -> None: ...


_SETTERS = {"kafka": _set_lag, "sqs": _set_depths}
