"""The page benchmark: the first paint of the jobs page, with many jobs in the table."""

import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ground import Ground, make_ground
from pipeline.author.registry import REGISTRY
from pipeline.infra.provision import provision
from pipeline.jobs import JobStore, NewJob
from pipeline.services.environment import Services
from pipeline.web.server import jobs_server
from tests.webdriver import Browser, browsing

#: Pages by their query; the last finds nothing among all jobs.
PAGES = ("/", "/jobs", "/jobs?state=running", "/jobs?entity=order-7", "/jobs?text=nothing")

#: Jobs opened together.
BATCH = 500

#: The first paint (Paint Timing), in milliseconds since the request; null until then.
PAINTED = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def run(services: Services, jobs: int, loads: int) -> list[dict[str, Any]]:
    """Return a row for each page."""
    ground = make_ground(services)
    list(provision(ground.settings, REGISTRY))
    _open_jobs(ground, jobs)
    with (
        jobs_server(ground.settings, REGISTRY, "127.0.0.1", 0) as server,
        tempfile.TemporaryDirectory() as folder,
        browsing(Path(folder)) as browser,
    ):
        server.start()
        _painted(browser, f"{server.url}/submit")
        rows = [
            _row(services, jobs, page, [_painted(browser, server.url + page) for _ in range(loads)])
            for page in PAGES
        ]
        server.stop()
    return rows


def _open_jobs(ground: Ground, jobs: int) -> None:
    store, now = JobStore(ground.settings), time.time()
    topic = next(iter(REGISTRY.by_name.values())).consumes
    plan = REGISTRY.plan(topic)
    for begin in range(0, jobs, BATCH):
        batch = [
            NewJob(
                job_id=str(uuid.uuid4()),
                entity_id=f"order-{at}",
                topic=topic,
                plan=plan,
                submitted_at=now - at,
            )
            for at in range(begin, min(begin + BATCH, jobs))
        ]
        for answer in store.records.open(batch).errors:
            if answer is not None:
                raise answer


def _painted(browser: Browser, url: str) -> float:
    # Reads are cached for two seconds.
    time.sleep(2.5)
    browser.open(url)
    while (milliseconds := browser.run(PAINTED)) is None:
        time.sleep(0.02)
    return float(milliseconds)


def _row(services: Services, jobs: int, page: str, milliseconds: Sequence[float]) -> dict[str, Any]:
    return {
        "benchmark": "page",
        "services": services.name,
        "jobs": jobs,
        "page": page,
        "loads": len(milliseconds),
        "first_paint_ms": round(statistics.median(milliseconds)),
        "worst_ms": round(max(milliseconds)),
    }
