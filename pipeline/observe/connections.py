"""A connection of the HTTP servers, which bounds what clients can hold of them: places and time."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

log = structlog.get_logger(__name__)

#: Seconds in which a client must send its headers, and then its body, by what h11 waits for. uvicorn bounds
#: only the pause between two requests.
SEND_TIMEOUTS: Final[Mapping[Any, float]] = {h11.IDLE: 10.0, h11.SEND_BODY: 60.0}

#: Seconds in which a client must read on, once the buffers of its answer are full.
READ_TIMEOUT: Final = 30.0

#: A full server makes room for this part of its connections at a time: one of so many.
ROOM: Final = 16


class Connection(H11Protocol):
    """One connection of a server that has at most ``limit`` of them.

    A full server makes room for a new connection by dropping a sixteenth of the others: those that have not
    sent their whole request, first those of the address that has most connections, then those that have been
    without an answer for the longest time; only where there are none, one that has sent it. So idle
    connections, however many and however fast they come, use up no descriptors and keep no probe out, nor do
    requests that are answered late. Answers that are being sent, such as event streams, are not cut off.
    """

    #: Of a health server, whose process needs descriptors for its work: see the worker's ``HEALTH_FILES``.
    limit: ClassVar[int] = 32

    _send_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None
    #: What h11 waits for, as ``SEND_TIMEOUTS`` names it.
    _awaited: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request; on a full server, drop others."""
        super().connection_made(transport)
        #: Since when it is without an answer.
        self._since = self.loop.time()
        self._await_client()
        if len(self.connections) > self.limit:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        _cancel(self._send_timer)
        _cancel(self._read_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request."""
        super().data_received(data)
        self._await_client()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._since = self.loop.time()
        super().on_response_complete()
        self._await_client()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(READ_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        _cancel(self._read_timer)
        super().resume_writing()

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def _asked(self) -> bool:
        """Whether it has sent its whole request."""
        return self.conn.their_state is h11.DONE

    def _await_client(self) -> None:
        """Bound the time until the client has sent what is missing; pieces of it do not extend the time."""
        if self.conn.their_state is self._awaited:
            return
        self._awaited = self.conn.their_state
        _cancel(self._send_timer)
        if (timeout := SEND_TIMEOUTS.get(self._awaited)) is not None:
            self._send_timer = self.loop.call_later(timeout, self.transport.abort)

    def _make_room(self) -> None:
        unanswered = [
            each
            for each in self.connections
            if isinstance(each, Connection) and each is not self and each.conn.our_state is not h11.SEND_BODY
        ]
        held = Counter(each._address for each in unanswered)
        ranked = sorted(unanswered, key=lambda each: (each._asked, -held[each._address], each._since))
        # If all others are being answered, it goes itself.
        dropped = ranked[:1] or [self]
        # Ranking costs as much as accepting a hundred, so it makes room for more than one.
        dropped += [each for each in ranked[1 : self.limit // ROOM] if not each._asked]
        # Their loss is reported later; the next connection must not find them here.
        self.connections.difference_update(dropped)
        for each in dropped:
            each.transport.abort()
        log.warning("http.full", connections=self.limit)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
