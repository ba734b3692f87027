"""One answer for all who ask: made on a thread, kept for a moment, waited for a few seconds at most."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Makes an answer when asked. Used from one event loop, which it never blocks.

    However many ask, and however long it takes: it costs one thread. An exception is an answer too.
    """

    def __init__(self, name: str, make: Callable[[], T], *, timeout: float, lifetime: float) -> None:
        """``timeout``: seconds it is waited for. ``lifetime``: seconds it is given to whoever asks next."""
        self._name = name
        self._make = make
        self._timeout = timeout
        self._lifetime = lifetime
        self._latest: Future[T] | None = None
        self._made_at = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether an answer is there, or on its way, that needs not be made anew."""
        latest = self._latest
        return latest is not None and (not latest.done() or time.monotonic() - self._made_at < self._lifetime)

    @property
    def is_under_way(self) -> bool:
        """Whether its thread is at work."""
        return self._latest is not None and not self._latest.done()

    async def get(self) -> T:
        """The answer, or its exception; TimeoutError when it takes too long."""
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._current())), self._timeout)

    def forget(self) -> None:
        """Let the next who asks get what is so from now on."""
        self._latest = None

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
            self._made_at = time.monotonic()
            future.set_exception(error)
        else:
            self._made_at = time.monotonic()
            future.set_result(answer)
