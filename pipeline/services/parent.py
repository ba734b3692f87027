"""What a helper process does to end with the process that started it, however that one ended."""

import os
import select
import subprocess
import sys


def start_keeper(module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start ``module`` as a process that cleans up once this one ends, or closes the pipe to its input."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        # It outlives this process a little: whoever reads our output must not wait for it.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A session of its own: Ctrl-C must not end the process that cleans up after it.
        start_new_session=True,
    )


def end_keeper(keeper: "subprocess.Popen[bytes]") -> None:
    """Let it clean up now, and wait until it has."""
    assert keeper.stdin is not None
    keeper.stdin.close()
    keeper.wait()


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
