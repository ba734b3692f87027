"""Consumer groups and their members, asked for by a child process that may die.

The admin requests about groups end their process by an assertion while a broker goes and comes back
(DescribeConsumerGroups of librdkafka 2.16.0), so no process that must live makes them.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from pipeline.errors import ServiceError, ServiceUnavailableError
from pipeline.kafka.positions import Partition
from pipeline.settings import Settings

#: Seconds one request may take.
TIMEOUT = 15.0

#: Seconds that the child may take to start, beyond the request.
START = 20.0

#: The module that makes the requests; only the child imports it.
CHILD = "pipeline.kafka.groupchild"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One consumer of a group."""

    client_id: str
    host: str
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """One consumer group."""

    name: str
    #: Kafka's own word: STABLE, EMPTY, DEAD, …
    state: str
    members: tuple[Member, ...]


@dataclass(frozen=True, kw_only=True)
class GroupRequest:
    """A question to the child."""

    settings: Settings
    #: The groups to describe; None: list the names of all groups.
    names: tuple[str, ...] | None
    timeout: float


GroupAnswer = list[str] | dict[str, Group | ServiceError]


def list_groups(settings: Settings, timeout: float = TIMEOUT) -> list[str]:
    """Return the names of the cluster's consumer groups. Raises a ServiceError."""
    request = GroupRequest(settings=settings, names=None, timeout=timeout)
    return cast("list[str]", _ask(request, "list consumer groups"))


def describe_groups(
    settings: Settings, names: Sequence[str], timeout: float = TIMEOUT
) -> dict[str, Group | ServiceError]:
    """Return each group, or the error of that group. A group that never was is "DEAD", without members.

    Raises a ServiceError if no group could be asked about, also if the child died.
    """
    if not names:
        return {}
    request = GroupRequest(settings=settings, names=tuple(names), timeout=timeout)
    return cast("dict[str, Group | ServiceError]", _ask(request, "describe consumer groups"))


def _ask(request: GroupRequest, action: str) -> GroupAnswer:
    try:
        child = subprocess.run(
            # Modules come from where this process has them, never from the working directory.
            [sys.executable, "-P", "-m", CHILD],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            input=pickle.dumps(request),
            stdout=subprocess.PIPE,
            timeout=request.timeout + START,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceUnavailableError(f"Could not {action}: no answer in {error.timeout:g} s") from error
    if child.returncode != 0:
        raise ServiceUnavailableError(
            f"Could not {action}: the child process {_end_of(child.returncode)}, as librdkafka does while a "
            "broker goes and comes back: try again"
        )
    # Our own child wrote it.
    answer: GroupAnswer | ServiceError = pickle.loads(child.stdout)  # noqa: S301
    if isinstance(answer, ServiceError):
        raise answer
    return answer


def _end_of(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
