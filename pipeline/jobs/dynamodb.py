"""The DynamoDB client of a process: made at its first use, never carried through a fork."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

from botocore.exceptions import BotoCoreError

from pipeline.aws.client import make_client
from pipeline.jobs.errors import table_error
from pipeline.jobs.throttling import watch
from pipeline.jobs.writeunits import CountingClient

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

#: Seconds to wait for a connection, and for an answer. DynamoDB answers in milliseconds; every write here
#: may be sent again, so a slow answer is better asked for anew.
CONNECT_TIMEOUT, READ_TIMEOUT = 3, 10

#: Tries in all by botocore itself; after them the caller decides.
ATTEMPTS = 4

#: Requests at once from one batch call. More threads than this only wait for Python's lock.
REQUESTS_AT_ONCE = 8

#: The operations on items; those on the table itself are rare.
FREQUENT = (
    "BatchExecuteStatement",
    "BatchGetItem",
    "BatchWriteItem",
    "GetItem",
    "PutItem",
    "Query",
    "UpdateItem",
)

_lock = threading.Lock()
_clients: dict[tuple[tuple[str, str], ...], "DynamoDBClient"] = {}
_pool: ThreadPoolExecutor | None = None


def dynamodb_client() -> "DynamoDBClient":
    """Return the client of this process; threads may share it.

    Region, endpoint, profile and credentials come from boto3's own chain, which reads ``AWS_*``: a process
    that changes those (tests that speak to two sets of services) gets a client of its own for each.
    """
    chain = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    with _lock:
        if chain not in _clients:
            _clients[chain] = _make_client()
        return _clients[chain]


def request_pool() -> ThreadPoolExecutor:
    """Return the threads of this process that send the requests of a batch in parallel."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="dynamodb")
        return _pool


def _make_client() -> "DynamoDBClient":
    try:
        client = make_client(
            "dynamodb",
            FREQUENT,
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            attempts=ATTEMPTS,
            # Several batch calls may run at once, each with its own threads' requests.
            connections=4 * REQUESTS_AT_ONCE,
        )
    except BotoCoreError as error:
        raise table_error(error, "make a DynamoDB client") from error
    watch(client)
    return cast("DynamoDBClient", CountingClient(client))


def _forget() -> None:
    """Drop the parent's sockets, locks and threads in a forked child."""
    global _lock, _pool
    _lock = threading.Lock()
    _clients.clear()
    _pool = None


os.register_at_fork(after_in_child=_forget)
