"""A pipe with which any thread wakes the event loop, or a blocking wait."""

import os
import select
import threading


class WakeupPipe:
    """A pipe with at most one byte in it. ``fileno`` is for the event loop to watch."""

    def __init__(self) -> None:
        self.fileno, self._write_end = os.pipe()
        os.set_blocking(self.fileno, False)
        self._lock = threading.Lock()
        self._set = False
        self._closed = False

    def set(self) -> None:
        """Wake the reader. Does nothing if it is awake already, or after ``close``."""
        with self._lock:
            if not self._set and not self._closed:
                self._set = True
                os.write(self._write_end, b"!")

    def clear(self) -> None:
        """Empty the pipe. Clear first, then look for work: a later ``set`` wakes the reader again."""
        with self._lock:
            if self._set and not self._closed:
                self._set = False
                os.read(self.fileno, 1)

    def wait(self, timeout: float | None) -> bool:
        """Block until ``set`` is called, at most ``timeout`` seconds (None: for ever); False after those."""
        # Not select, which takes no descriptor above 1023.
        poll = select.poll()
        poll.register(self.fileno, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0, timeout) * 1000))

    def close(self) -> None:
        """Close the file descriptors: their numbers may belong to another file at once."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self.fileno)
                os.close(self._write_end)
