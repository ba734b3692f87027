"""One boto3 DynamoDB client a process: made when first asked for, never carried through a fork."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from pipeline.jobs.errors import table_error

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

#: Seconds to wait for a connection, and for an answer. DynamoDB answers in milliseconds; every write here
#: may be sent again, so a slow answer is better asked for anew.
CONNECT_TIMEOUT, READ_TIMEOUT = 3, 10

#: Tries in all by botocore itself; after them the caller decides.
ATTEMPTS = 4

#: Requests at once from one batch call. More threads than this only wait for Python's lock.
REQUESTS_AT_ONCE = 8

#: What AWS's logs show. The versions are those that matter when a call goes wrong.
USER_AGENT = f"pipeline Boto3/{boto3.__version__} Botocore/{botocore.__version__}"

_lock = threading.Lock()
_clients: dict[tuple[tuple[str, str], ...], "DynamoDBClient"] = {}
_pool: ThreadPoolExecutor | None = None


def dynamodb_client() -> "DynamoDBClient":
    """The client of this process; threads may share it.

    Region, endpoint, profile and credentials come from boto3's own chain, which reads ``AWS_*``: a process
    that changes those (tests that speak to two sets of services) gets a client of its own for each.
    """
    chain = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    with _lock:
        if chain not in _clients:
            _clients[chain] = _make_client()
        return _clients[chain]


def request_pool() -> ThreadPoolExecutor:
    """The threads of this process that send the requests of one batch side by side."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="dynamodb")
        return _pool


def _make_client() -> "DynamoDBClient":
    # A session of its own: making clients on boto3's shared default session is not thread-safe.
    config = Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        # Several batch calls may run at once, each with its own threads' requests.
        max_pool_connections=4 * REQUESTS_AT_ONCE,
        tcp_keepalive=True,
        # Requests are built in this package only; checking them costs CPU at each call.
        parameter_validation=False,
        disable_request_compression=True,
        # Given, botocore does not put its own together anew for each request: a tenth of a call's CPU.
        user_agent=USER_AGENT,
    )
    try:
        return boto3.session.Session().client("dynamodb", config=config)
    except BotoCoreError as error:
        raise table_error(error, "make a DynamoDB client") from error


def _forget() -> None:
    """In a forked child: the parent's sockets, locks and threads are not ours."""
    global _lock, _pool
    _lock = threading.Lock()
    _clients.clear()
    _pool = None


os.register_at_fork(after_in_child=_forget)
