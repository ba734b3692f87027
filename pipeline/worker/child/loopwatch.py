"""A watch on an event loop: logs where the loop stands when a function blocks it, and all its runs."""

import asyncio
import sys
import threading
import time
import traceback

import structlog

log = structlog.get_logger(__name__)

#: Seconds without a turn after which a loop counts as blocked, and seconds between two looks at it.
BLOCKED_AFTER, LOOK_EVERY = 2.0, 0.5
#: Lines of the stack that are logged, from its end.
FRAMES = 8


class LoopWatch:
    """A thread that logs ``loop.blocked`` once for each time that the loop stands still."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call it in the thread of the loop."""
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._turned_at = time.monotonic()
        self._stopped = threading.Event()
        self._turn()
        threading.Thread(target=self._work, name="loop-watch", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _turn(self) -> None:
        self._turned_at = time.monotonic()
        self._loop.call_later(LOOK_EVERY, self._turn)

    def _work(self) -> None:
        reported_turn = 0.0
        while not self._stopped.wait(LOOK_EVERY):
            turned_at = self._turned_at
            blocked = time.monotonic() - turned_at
            if blocked > BLOCKED_AFTER and turned_at != reported_turn:
                reported_turn = turned_at
                log.warning("loop.blocked", seconds=round(blocked, 1), stack=self._stack())

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)
        return "".join(traceback.format_stack(frame, FRAMES)) if frame else ""
