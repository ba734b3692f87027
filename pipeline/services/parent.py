"""What a helper process does to end with the process that started it, however that one ended."""

import os
import select
import sys


def wait_for_parent_end() -> str:
    """Return all that the parent wrote, once it closes our standard input or is gone (kill -9 included).

    The end of input alone is not enough: a process the parent forked may hold the pipe open.
    """
    parent, written = os.getppid(), b""
    while os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin], [], [], 1.0)
        if readable:
            if not (read := os.read(sys.stdin.fileno(), 4096)):
                break
            written += read
    return written.decode()
