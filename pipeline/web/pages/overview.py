"""The pipeline's page: all stages with what is between them, as it is now."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse, StreamingResponse

from pipeline.web.model import PipelineView
from pipeline.web.pages.flow import draw
from pipeline.web.pages.frame import Pages, soon
from pipeline.web.pages.stream import HEADERS, Stream, event
from pipeline.web.site import Site

#: Addresses of the streams: the pipeline itself, and a beat for pages that then look for themselves.
EVENTS, PULSE = "/watch/pipeline", "/watch/pulse"


def overview_router(site: Site, pages: Pages, endings: list[Callable[[], None]]) -> APIRouter:
    """``/``, and the streams that pages follow; ``endings`` takes what ends these."""
    router = APIRouter(dependencies=[Depends(site.access.look)])

    async def beat() -> str:
        view = await site.live.pipeline()
        return event("pipeline", pages.render("_pipeline.html", **_values(view)))

    async def pulse() -> str:
        return event("pulse", "")

    @router.get("/", response_class=HTMLResponse)
    async def overview() -> HTMLResponse:
        view = await soon(site.live.pipeline())
        return pages.page("pipeline.html", live=EVENTS, **(_values(view) if view else {"view": None}))

    for address, stream in ((EVENTS, Stream(beat)), (PULSE, Stream(pulse))):
        router.add_api_route(address, _watch(stream))
        endings.append(stream.end)

    return router


def _watch(stream: Stream) -> Callable[[], Awaitable[StreamingResponse]]:
    async def watch() -> StreamingResponse:
        return StreamingResponse(stream.watch(), media_type="text/event-stream", headers=HEADERS)

    return watch


def _values(view: PipelineView) -> dict[str, Any]:
    online = sum(worker.online for worker in view.at_work.workers)
    return {"view": view, "flow": draw(view), "stats": view.at_work, "online": online}
