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

    def set(self) -> None:
        """Wake the reader; once is enough until it has cleared."""
        with self._lock:
            if not self._set:
                self._set = True
                os.write(self._write_end, b"!")

    def clear(self) -> None:
        """The reader is awake. Clear first, then look: a later ``set`` wakes it again."""
        with self._lock:
            if self._set:
                self._set = False
                os.read(self.fileno, 1)

    def wait(self, timeout: float | None) -> bool:
        """Block until set, at most ``timeout`` seconds (None: for ever)."""
        return bool(select.select([self.fileno], [], [], timeout)[0])

    def close(self) -> None:
        """Give the file descriptors back."""
        os.close(self.fileno)
        os.close(self._write_end)
