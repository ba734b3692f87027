"""Server-sent events for all who watch: one beat for everybody, made once however many they are."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

#: Seconds between two beats.
INTERVAL = 2.0

#: What a proxy must not do with a stream of events.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(name: str, data: str) -> str:
    """One server-sent event; ``data`` may have lines."""
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"event: {name}\n{lines}\n"


class Stream:
    """What one kind of page is told. Used from one event loop; works only while somebody watches."""

    def __init__(self, make: Callable[[], Awaitable[str]], interval: float = INTERVAL) -> None:
        """``make`` gives an event as ``event`` has it."""
        self._make = make
        self._interval = interval
        self._watchers: set[asyncio.Queue[str | None]] = set()
        self._beat: asyncio.Task[None] | None = None

    async def watch(self) -> AsyncIterator[str]:
        """Events for one who watches, from now on until ``end``. One who is slow misses some."""
        mine: asyncio.Queue[str | None] = asyncio.Queue(maxsize=1)
        self._watchers.add(mine)
        if self._beat is None or self._beat.done():
            self._beat = asyncio.create_task(self._run())
        try:
            while (said := await mine.get()) is not None:
                yield said
        finally:
            self._watchers.discard(mine)

    def end(self) -> None:
        """Let all who watch go: their browsers come again by themselves."""
        for each in self._watchers:
            if each.full():
                each.get_nowait()
            each.put_nowait(None)

    async def _run(self) -> None:
        while self._watchers:
            said = await self._make()
            for each in self._watchers:
                with contextlib.suppress(asyncio.QueueFull):
                    each.put_nowait(said)
            await asyncio.sleep(self._interval)
