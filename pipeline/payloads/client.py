"""The S3 client of a process: made at its first use, never carried through a fork."""

import os
import threading
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError

from pipeline.aws.client import make_client
from pipeline.payloads.errors import s3_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: Seconds to wait for a connection, and for the next bytes of an answer.
CONNECT_TIMEOUT, READ_TIMEOUT = 3, 10

#: Tries in all by botocore itself; after them the caller decides.
ATTEMPTS = 3

#: Sockets kept open: one for each thread that may call at once (delivery, settlement).
CONNECTIONS = 16

#: The variables that name another endpoint.
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

_lock = threading.Lock()
_clients: dict[tuple[tuple[str, str], ...], "S3Client"] = {}


def s3_client() -> "S3Client":
    """Return the client of this process; threads may share it.

    Region, endpoint, profile and credentials come from boto3's own chain, which reads ``AWS_*``: a process
    that changes those (tests that speak to two sets of services) gets a client of its own for each.
    """
    chain = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    with _lock:
        if chain not in _clients:
            _clients[chain] = _make_client()
        return _clients[chain]


def _make_client() -> "S3Client":
    try:
        client: S3Client = make_client(
            "s3",
            (),
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            attempts=ATTEMPTS,
            connections=CONNECTIONS,
            # Another endpoint than AWS's has no host name for each bucket.
            style="path" if any(map(os.environ.get, ENDPOINTS)) else "auto",
        )
    except BotoCoreError as error:
        raise s3_error(error, "make an S3 client") from error
    return client


def _forget() -> None:
    """Drop the parent's sockets and locks in a forked child."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()


os.register_at_fork(after_in_child=_forget)
