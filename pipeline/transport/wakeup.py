"""A wake-up: how any thread tells the event loop, or a blocking wait, that there is something to do."""

import os
import select
import threading


class Wakeup:
    """A pipe with at most one byte in it. ``fileno`` is for the event loop to watch."""

    def __init__(self) -> None:
        self.fileno, self._write_end = os.pipe()
        os.set_blocking(self.fileno, False)
        self._lock = threading.Lock()
        self._set = False
        self._closed = False

    def set(self) -> None:
        """Wake the reader; once is enough until it has cleared. After ``close`` nothing."""
        with self._lock:
            if not self._set and not self._closed:
                self._set = True
                os.write(self._write_end, b"!")

    def clear(self) -> None:
        """The reader is awake. Clear first, then look: a later ``set`` wakes it again."""
        with self._lock:
            if self._set and not self._closed:
                self._set = False
                os.read(self.fileno, 1)

    def wait(self, timeout: float | None) -> bool:
        """Block until set, at most ``timeout`` seconds (None: for ever)."""
        # Not select, which takes no descriptor above 1023.
        poll = select.poll()
        poll.register(self.fileno, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0, timeout) * 1000))

    def close(self) -> None:
        """Give the file descriptors back: their numbers may be another file's at once."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self.fileno)
                os.close(self._write_end)
