"""One boto3 SQS client a process: made when first asked for, never carried through a fork."""

import os
import threading
from typing import TYPE_CHECKING

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from config.settings import Settings
from pipeline.sqs.errors import sqs_error

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: Seconds to wait for a connection. A healthy endpoint answers in milliseconds; three is one lost SYN.
CONNECT_TIMEOUT = 3

#: Seconds an answer may take beyond the long poll's own wait.
ANSWER_MARGIN = 10

#: Tries in all by botocore itself; after them the caller decides, with the same ids.
ATTEMPTS = 3

#: Sockets kept open: one for each thread that may call at once (receivers, settlers, heartbeat).
CONNECTIONS = 64

#: What AWS's logs show. The versions are those that matter when a call goes wrong.
USER_AGENT = f"pipeline Boto3/{boto3.__version__} Botocore/{botocore.__version__}"

_lock = threading.Lock()
_clients: dict[tuple[object, ...], "SQSClient"] = {}


def sqs_client(settings: Settings, *, answer_within: float | None = None) -> "SQSClient":
    """The client of this process for ``settings``; threads may share it.

    ``answer_within``: its calls are tried once and end after so many seconds; none may be a long poll.

    Region, endpoint, profile and credentials come from boto3's own chain, which reads ``AWS_*``: a process
    that changes those (tests that speak to two sets of services) gets a client of its own for each.
    """
    chain = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    key = (settings.sqs_wait_time_seconds, answer_within, chain)
    with _lock:
        if key not in _clients:
            _clients[key] = _make_client(settings, answer_within)
        return _clients[key]


def _make_client(settings: Settings, answer_within: float | None) -> "SQSClient":
    read_timeout = answer_within or settings.sqs_wait_time_seconds + ANSWER_MARGIN
    # A session of its own: making clients on boto3's shared default session is not thread-safe.
    config = Config(
        connect_timeout=min(CONNECT_TIMEOUT, read_timeout),
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": 1 if answer_within else ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        tcp_keepalive=True,
        # Requests are built in this package only, from typed fields; checking them costs CPU at each call.
        parameter_validation=False,
        disable_request_compression=True,
        # Given, botocore does not put its own together anew for each request: a tenth of a call's CPU.
        user_agent=USER_AGENT,
    )
    try:
        return boto3.session.Session().client("sqs", config=config)
    except BotoCoreError as error:
        raise sqs_error(error, "make an SQS client") from error


def _forget_clients() -> None:
    """In a forked child: the parent's sockets and locks are not ours."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()


os.register_at_fork(after_in_child=_forget_clients)
