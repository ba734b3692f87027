"""The health endpoints: each dependency by itself, all of them, and what an orchestrator asks."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from config.settings import Settings
from pipeline.health.probe import Probe
from pipeline.health.reports import UNHEALTHY, Report, Reports, worst
from pipeline.registry import Registry


def make_probes(settings: Settings, registry: Registry) -> dict[str, Probe]:
    """A probe for each dependency."""
    reports = Reports(settings, registry)
    return {
        "kafka": Probe("Kafka", reports.kafka),
        "sqs": Probe("SQS", reports.sqs),
        "dynamodb": Probe("DynamoDB", reports.dynamodb),
    }


def health_router(
    settings: Settings, probes: Mapping[str, Probe], stuck: Callable[[], str | None]
) -> APIRouter:
    """``/kafka/health``, ``/sqs/health``, ``/health``, ``/live`` and ``/ready``.

    503 when what was asked for is unhealthy, else 200. ``stuck`` says what keeps the process from its work
    until it is started anew; None while nothing does.
    """
    router = APIRouter()

    async def ask_all() -> dict[str, Report]:
        answers = await asyncio.gather(*(probe.report() for probe in probes.values()))
        return dict(zip(probes, answers, strict=True))

    @router.get("/kafka/health")
    async def kafka_health() -> JSONResponse:
        return _answer(await probes["kafka"].report())

    @router.get("/sqs/health")
    async def sqs_health() -> JSONResponse:
        return _answer(await probes["sqs"].report())

    @router.get("/health")
    async def health() -> JSONResponse:
        dependencies = await ask_all()
        return _answer(
            {
                "status": worst(dependencies),
                "service": settings.service_name,
                "timestamp": datetime.now(UTC).isoformat(),
                "version": version("pipeline"),
                "dependencies": dependencies,
            }
        )

    @router.get("/live")
    async def live() -> JSONResponse:
        """The process works: a dependency that is away is no reason to restart it."""
        if reason := stuck():
            return JSONResponse({"status": "stuck", "reason": reason}, status_code=503)
        return JSONResponse({"status": "live"})

    @router.get("/ready")
    async def ready() -> JSONResponse:
        """Work can be done: the process works, and no dependency is unhealthy."""
        reasons = {
            name: report.get("error")
            for name, report in (await ask_all()).items()
            if report["status"] == UNHEALTHY
        }
        if reason := stuck():
            reasons["process"] = reason
        if reasons:
            return JSONResponse({"status": "not ready", "reasons": reasons}, status_code=503)
        return JSONResponse({"status": "ready"})

    return router


def _answer(report: Report) -> JSONResponse:
    return JSONResponse(dict(report), status_code=503 if report["status"] == UNHEALTHY else 200)
