"""The SQS client of a process: made on first use, never carried through a fork."""

import os
import threading
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError

from pipeline.aws.client import make_client
from pipeline.settings import Settings
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

#: The operations that a worker and a bridge call all the time.
FREQUENT = ("SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch")

_lock = threading.Lock()
_clients: dict[tuple[object, ...], "SQSClient"] = {}


def sqs_client(settings: Settings, *, answer_within: float | None = None) -> "SQSClient":
    """Return the client of this process for ``settings``; threads may share it.

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


def credentials_source() -> str | None:
    """Return the source of boto3's credentials, in botocore's word; None if it finds none.

    The credentials themselves are never returned.

    "env": access keys in the environment, "shared-credentials-file" and "config-file" keys in a profile,
    "sso" and "login" a person's; "iam-role", "container-role", "assume-role" and
    "assume-role-with-web-identity" a role's.
    """
    try:
        credentials = boto3.session.Session().get_credentials()
    except BotoCoreError as error:
        raise sqs_error(error, "find AWS credentials") from error
    return credentials.method if credentials else None


def _make_client(settings: Settings, answer_within: float | None) -> "SQSClient":
    read_timeout = answer_within or settings.sqs_wait_time_seconds + ANSWER_MARGIN
    try:
        client: SQSClient = make_client(
            "sqs",
            FREQUENT,
            connect_timeout=min(CONNECT_TIMEOUT, read_timeout),
            read_timeout=read_timeout,
            attempts=1 if answer_within else ATTEMPTS,
            connections=CONNECTIONS,
        )
    except BotoCoreError as error:
        raise sqs_error(error, "make an SQS client") from error
    return client


def _forget_clients() -> None:
    """Drop the parent's sockets and locks in a forked child."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()


os.register_at_fork(after_in_child=_forget_clients)
