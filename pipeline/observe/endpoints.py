"""The HTTP endpoints of every process: health of its dependencies, and metrics.

The JSON is built from the reports here, and nowhere else.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response

from pipeline import __version__
from pipeline.jobs.table import INDEX
from pipeline.observe.guard import Guard
from pipeline.observe.probe import Probes
from pipeline.observe.reports import (
    DynamodbReport,
    KafkaReport,
    QueueReading,
    Report,
    S3Report,
    SqsReport,
    Status,
)
from pipeline.settings import Settings
from pipeline.telemetry import metrics

#: Prometheus's text format.
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LEVELS: dict[Status, float] = {"healthy": 1.0, "degraded": 0.5, "unhealthy": 0.0}


def health_router(
    settings: Settings, probes: Probes, guard: Guard, stuck: Callable[[], str | None]
) -> APIRouter:
    """Make ``/kafka/health``, ``/sqs/health``, ``/health``, ``/live`` and ``/ready``.

    503 when the dependency is unhealthy, else 200. The status is for everybody, the rest for those whom
    ``guard`` admits. ``stuck`` returns what keeps the process from its work until a restart; None while
    nothing does.
    """
    router = APIRouter()
    admits = Depends(guard.admits)

    @router.get("/kafka/health")
    async def kafka_health(admitted: Annotated[bool, admits]) -> JSONResponse:
        report = await probes.kafka.report()
        return _answer(report.status != "unhealthy", report_json(report), admitted)

    @router.get("/sqs/health")
    async def sqs_health(admitted: Annotated[bool, admits]) -> JSONResponse:
        report = await probes.sqs.report()
        return _answer(report.status != "unhealthy", report_json(report), admitted)

    @router.get("/health")
    async def health(admitted: Annotated[bool, admits]) -> JSONResponse:
        report = await probes.report()
        body = {
            "status": report.status,
            "service": settings.service_name,
            "timestamp": datetime.now(UTC).isoformat(),
            "version": __version__,
            "dependencies": {name: report_json(each) for name, each in report.by_name.items()},
        }
        return _answer(report.status != "unhealthy", body, admitted)

    @router.get("/live")
    async def live(admitted: Annotated[bool, admits]) -> JSONResponse:
        """200 while the process works: a dependency that is away is no reason to restart it."""
        if reason := stuck():
            return _answer(False, {"status": "stuck", "reason": reason}, admitted)
        return _answer(True, {"status": "live"}, admitted)

    @router.get("/ready")
    async def ready(admitted: Annotated[bool, admits]) -> JSONResponse:
        """200 while work can be done: the process works, and no dependency is unhealthy."""
        report = await probes.report()
        reasons = {name: each.error for name, each in report.by_name.items() if each.status == "unhealthy"}
        if reason := stuck():
            reasons["process"] = reason
        if reasons:
            return _answer(False, {"status": "not ready", "reasons": reasons}, admitted)
        return _answer(True, {"status": "ready"}, admitted)

    return router


def metrics_router(probes: Probes, guard: Guard) -> APIRouter:
    """Make ``/metrics``, for clients that ``guard`` admits."""
    router = APIRouter(dependencies=[Depends(guard.admit)])

    @router.get("/metrics")
    async def read() -> Response:
        report = await probes.report()
        for name, each in report.by_name.items():
            metrics.DEPENDENCY.labels(name).set(_LEVELS[each.status])
        _set_lag(report.kafka)
        _set_depths(report.sqs)
        _set_write_capacity(report.dynamodb)
        return Response(metrics.exposition(), media_type=METRICS_TYPE)

    return router


def report_json(report: Report) -> dict[str, Any]:
    """Return a report as the JSON object that the endpoints serve."""
    found: dict[str, Any] = {"status": report.status}
    if not report.enabled:
        return found | {"enabled": False}
    match report:
        case KafkaReport():
            found |= _kafka_json(report)
        case SqsReport():
            found |= _sqs_json(report)
        case DynamodbReport():
            found |= _table_json(report)
        case S3Report():
            found |= {"bucket": report.bucket} if report.bucket else {}
    if report.error is not None:
        found["error"] = report.error
    if report.since is not None:
        found["since"] = datetime.fromtimestamp(report.since, UTC).isoformat(timespec="seconds")
    return found


def _kafka_json(report: KafkaReport) -> dict[str, Any]:
    servers = {} if report.bootstrap_servers is None else {"bootstrap_servers": report.bootstrap_servers}
    if report.status == "unhealthy":
        return servers
    return servers | {
        "brokers": list(report.brokers),
        "enabled": True,
        "expected_topics": list(report.expected_topics),
        "existing_topics": list(report.existing_topics),
        "missing_topics": list(report.missing_topics),
        "topics_without_leader": list(report.topics_without_leader),
        "consumer_group": report.consumer_group,
        "lag": report.lag,
        **({} if report.lag_by_topic is None else {"lag_by_topic": dict(report.lag_by_topic)}),
    }


def _sqs_json(report: SqsReport) -> dict[str, Any]:
    found: dict[str, Any] = {} if report.queue is None else {"queue": report.queue}
    if report.status == "unhealthy":
        return found
    others = {}
    for queue in report.queues:
        if queue.name == report.queue:
            found |= {"enabled": True, **_depth_json(queue)}
        elif queue.role == "tasks":
            others[queue.name] = _depth_json(queue)
    if others:
        found["other_queues"] = others
    return found | {"dlq": report.dlq, "dlq_depth": report.dlq_depth}


def _depth_json(queue: QueueReading) -> dict[str, int]:
    return {
        "messages_available": queue.available,
        "messages_in_flight": queue.in_flight,
        "messages_delayed": queue.delayed,
    }


def _table_json(report: DynamodbReport) -> dict[str, Any]:
    found = {} if report.table is None else {"table": report.table}
    return found if report.status == "unhealthy" else found | {"differences": list(report.differences)}


def _answer(ok: bool, body: dict[str, Any], admitted: bool) -> JSONResponse:
    return JSONResponse(body if admitted else {"status": body["status"]}, status_code=200 if ok else 503)


def _set_lag(report: KafkaReport) -> None:
    # An old value must not stay while Kafka does not answer.
    metrics.LAG.clear()
    for topic, events in (report.lag_by_topic or {}).items():
        metrics.LAG.labels(topic).set(events)


def _set_depths(report: SqsReport) -> None:
    metrics.QUEUE_MESSAGES.clear()
    for queue in report.queues:
        if queue.role == "dlq":
            metrics.QUEUE_MESSAGES.labels(queue.name, "dead").set(queue.depth)
            continue
        for state in ("available", "in_flight", "delayed"):
            metrics.QUEUE_MESSAGES.labels(queue.name, state).set(getattr(queue, state))


def _set_write_capacity(report: DynamodbReport) -> None:
    metrics.WRITE_CAPACITY.clear()
    if report.write_capacity:
        metrics.WRITE_CAPACITY.labels("table").set(report.write_capacity.table)
        metrics.WRITE_CAPACITY.labels(INDEX).set(report.write_capacity.index)
