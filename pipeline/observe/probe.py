"""Probes: each makes the report of one dependency in bounded time, and never raises."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Generic, Self, TypeVar

import structlog

from pipeline.author.registry import Registry
from pipeline.observe.dependencies import Dependencies
from pipeline.observe.reports import (
    DynamodbReport,
    HealthReport,
    KafkaReport,
    Report,
    S3Report,
    SqsReport,
)
from pipeline.settings import Settings

log = structlog.get_logger(__name__)

#: Seconds a report is waited for. Load balancers give a health check five.
TIMEOUT = 4.0

#: Seconds between two reports of a server that nobody asks: how late the start of an outage may be noticed.
WATCH = 10.0

#: Seconds a report is cached, so that many probes cost what one does.
LIFETIME = 1.0

T = TypeVar("T")
AnyReport = TypeVar("AnyReport", bound=Report)


class Shared(Generic[T]):
    """One answer for all callers: made on a thread, cached, waited for a few seconds at most.

    Used from one event loop, which it never blocks. However many callers wait, and however long it takes, it
    costs one thread. An exception is an answer too.
    """

    def __init__(self, name: str, make: Callable[[], T], *, timeout: float, lifetime: float) -> None:
        """``timeout``: seconds an answer is waited for. ``lifetime``: seconds it is cached."""
        self._name = name
        self._make = make
        self._timeout = timeout
        self._lifetime = lifetime
        self._latest: Future[T] | None = None
        self._answered_at = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether the next caller gets an answer that is cached or under way."""
        latest = self._latest
        return latest is not None and (
            not latest.done() or time.monotonic() - self._answered_at < self._lifetime
        )

    @property
    def is_under_way(self) -> bool:
        """Whether its thread is at work."""
        return self._latest is not None and not self._latest.done()

    async def get(self) -> T:
        """Return the answer or raise its exception; raise TimeoutError when it takes too long."""
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._current())), self._timeout)

    def _current(self) -> "Future[T]":
        if self._latest is not None and self.is_fresh:
            return self._latest
        self._latest = Future()
        # A daemon: an interpreter that ends must not wait for a service that does not answer.
        threading.Thread(target=self._run, args=(self._latest,), name=self._name, daemon=True).start()
        return self._latest

    def _run(self, future: "Future[T]") -> None:
        try:
            answer = self._make()
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            self._answered_at = time.monotonic()
            future.set_exception(error)
        else:
            self._answered_at = time.monotonic()
            future.set_result(answer)


class Probe(Generic[AnyReport]):
    """Makes the report of one dependency. Used from one event loop, which it never blocks.

    A dependency that hangs costs one thread, however often it is asked for.
    """

    def __init__(
        self,
        name: str,
        kind: type[AnyReport],
        make: Callable[[], AnyReport],
        *,
        timeout: float = TIMEOUT,
        lifetime: float = LIFETIME,
    ) -> None:
        self._name = name
        self._kind = kind
        self._make = make
        self._timeout = timeout
        self._shared = Shared(f"health-{name}", self._report, timeout=timeout, lifetime=lifetime)
        #: When the problem that the latest report names was first seen.
        self._since: float | None = None

    async def report(self) -> AnyReport:
        """Return a new report, or the one of less than a second ago. Never raises."""
        asked_at = time.time()
        try:
            report = await self._shared.get()
        except TimeoutError:
            report = self._kind.unhealthy(f"{self._name} did not answer within {self._timeout:g} s")
        self._since = (self._since or asked_at) if report.error else None
        return replace(report, since=self._since)

    def _report(self) -> AnyReport:
        try:
            return self._make()
        except Exception as error:
            # The message of an error of other libraries may hold a secret: it goes to the log only.
            log.exception("health.failed", dependency=self._name)
            return self._kind.unhealthy(
                f"{self._name} could not be asked: {type(error).__name__}; the log has more"
            )


@dataclass(frozen=True, kw_only=True)
class Probes:
    """The probes of a service, one for each dependency."""

    kafka: Probe[KafkaReport]
    sqs: Probe[SqsReport]
    dynamodb: Probe[DynamodbReport]
    #: None where nothing is kept on S3.
    s3: Probe[S3Report] | None = None

    @classmethod
    def of(cls, settings: Settings, registry: Registry) -> Self:
        """Return the probes of the service that ``settings`` and ``registry`` describe."""
        dependencies = Dependencies(settings, registry)
        return cls(
            kafka=Probe("Kafka", KafkaReport, dependencies.kafka),
            sqs=Probe("SQS", SqsReport, dependencies.sqs),
            dynamodb=Probe("DynamoDB", DynamodbReport, dependencies.dynamodb),
            s3=Probe("S3", S3Report, dependencies.s3) if settings.payload_bucket else None,
        )

    async def report(self) -> HealthReport:
        """Ask all dependencies at once. Never raises."""
        kafka, sqs, dynamodb, s3 = await asyncio.gather(
            self.kafka.report(), self.sqs.report(), self.dynamodb.report(), self._s3_report()
        )
        return HealthReport(kafka=kafka, sqs=sqs, dynamodb=dynamodb, s3=s3)

    async def _s3_report(self) -> S3Report:
        return S3Report.off() if self.s3 is None else await self.s3.report()

    async def watch(self) -> None:
        """Ask all dependencies every ``WATCH`` seconds, so that reports know when an outage began."""
        while True:
            await self.report()
            await asyncio.sleep(WATCH)
