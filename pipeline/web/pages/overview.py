"""The page of the pipeline, and the event streams that keep pages up to date."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, HTTPException
from fastapi.responses import HTMLResponse, StreamingResponse

from pipeline.web.model import PipelineView
from pipeline.web.pages.flow import draw
from pipeline.web.pages.frame import Pages, soon
from pipeline.web.site import Site

#: Addresses of the streams: the rendered pipeline, and a beat on which other pages fetch themselves.
EVENTS, PULSE = "/watch/pipeline", "/watch/pulse"

#: Seconds between two beats.
INTERVAL = 2.0

#: The most workers that the page lists; the API has all.
WORKERS_SHOWN = 100

#: Browsers on one stream; the connections of the server are left for everything else.
WATCHERS = 200

#: Keep proxies from caching and buffering the stream.
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(name: str, data: str) -> str:
    """Return one server-sent event; ``data`` may have several lines."""
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"event: {name}\n{lines}\n"


class Stream:
    """One event stream for many browsers: each beat is made once, and only while one is connected."""

    def __init__(self, make: Callable[[], Awaitable[str]], interval: float = INTERVAL) -> None:
        """``make`` returns the next event, as ``event`` formats it."""
        self._make = make
        self._interval = interval
        self._watchers: set[asyncio.Queue[str | None]] = set()
        self._beat: asyncio.Task[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether it takes no more browsers."""
        return len(self._watchers) >= WATCHERS

    async def watch(self) -> AsyncIterator[str]:
        """Give one browser the events from now on, until ``end``. A slow one misses some."""
        own: asyncio.Queue[str | None] = asyncio.Queue(maxsize=1)
        self._watchers.add(own)
        if self._beat is None or self._beat.done():
            self._beat = asyncio.create_task(self._run())
        try:
            while (text := await own.get()) is not None:
                yield text
        finally:
            self._watchers.discard(own)

    def end(self) -> None:
        """Disconnect all browsers; they reconnect by themselves."""
        for each in self._watchers:
            if each.full():
                each.get_nowait()
            each.put_nowait(None)

    async def _run(self) -> None:
        while self._watchers:
            text = await self._make()
            for each in self._watchers:
                with contextlib.suppress(asyncio.QueueFull):
                    each.put_nowait(text)
            await asyncio.sleep(self._interval)


def overview_router(site: Site, pages: Pages, endings: list[Callable[[], None]]) -> APIRouter:
    """Return the routes of ``/`` and of the streams; add to ``endings`` the functions that end them."""
    router = APIRouter(dependencies=[Depends(site.access.look)])

    async def beat() -> str:
        view = await site.live.pipeline()
        return event("pipeline", pages.render("_pipeline.html", **values_of(view)))

    async def pulse() -> str:
        return event("pulse", "")

    @router.get("/", response_class=HTMLResponse)
    async def overview() -> HTMLResponse:
        view = await soon(site.live.pipeline())
        return pages.page("pipeline.html", live=EVENTS, **(values_of(view) if view else {"view": None}))

    for address, stream in ((EVENTS, Stream(beat)), (PULSE, Stream(pulse))):
        router.add_api_route(address, _watch(stream))
        endings.append(stream.end)

    return router


def _watch(stream: Stream) -> Callable[[], Awaitable[StreamingResponse]]:
    async def watch() -> StreamingResponse:
        if stream.is_full:
            raise HTTPException(503, f"{WATCHERS} browsers watch already.")
        return StreamingResponse(stream.watch(), media_type="text/event-stream", headers=STREAM_HEADERS)

    return watch


def values_of(view: PipelineView) -> dict[str, Any]:
    """Return the values of the pipeline's template."""
    workers = sorted(view.at_work.workers, key=lambda worker: not worker.online)
    return {
        "view": view,
        "flow": draw(view),
        "stats": view.at_work,
        "online": sum(worker.online for worker in workers),
        "one_in": max((worker.one_in for worker in workers if worker.online), default=1),
        "workers": workers[:WORKERS_SHOWN],
        "more_workers": len(workers[WORKERS_SHOWN:]),
    }
