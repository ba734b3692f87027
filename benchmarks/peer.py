"""A peer: a program that empties or fills a queue, prepared for one measurement."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.ground import Ground
from pipeline.author.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The work is prepared; the command does it."""

    command: Sequence[str]
    #: The number of its processes.
    copies: int = 1
    #: The servers that it uses over the measured network, as URLs by name. Requests of the first count.
    servers: Mapping[str, str]
    #: Return its environment when those are reached at other URLs.
    environment: Callable[[Mapping[str, str]], Mapping[str, str]]
    #: Return how much is done, read without the proxy.
    done: Callable[[], int]
    #: Adds the work once its processes run; by default it is there before.
    bring: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A job that is run whole."""

    name: str
    tasks: int
    #: The stage of ours that its first event is for, and its last stage.
    first: Stage[Any, Any]
    last: Stage[Any, Any]
    #: The same for Celery: the tasks of its chain.
    chain: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A peer that is ready to run whole jobs."""

    #: Its processes by name; one is the "worker".
    commands: Mapping[str, Sequence[str]]
    #: The servers that it uses over the measured network, as URLs by name.
    servers: Mapping[str, str]
    #: Return its environment when those are reached at other URLs.
    environment: Callable[[Mapping[str, str]], Mapping[str, str]]
    #: Submit that many jobs, past the proxy.
    submit: Callable[[int], None]
    #: Texts in the worker's log line of a finished task.
    task_done: Sequence[bytes]
    #: Texts in the worker's log line of a job's finished last task.
    job_done: Sequence[bytes]


class Peer(Protocol):
    """One file in ``benchmarks.peers``."""

    #: The name of its rows.
    name: str

    def missing(self) -> str | None:
        """Return the missing requirement; None if it can run."""


class Working(Peer, Protocol):
    """A peer of the worker."""

    def working(self, ground: Ground, tasks: int) -> AbstractContextManager[Ready]:
        """Put that many tasks on a queue, for it to work off."""


class Sending(Peer, Protocol):
    """A peer of the bridge."""

    def sending(self, ground: Ground, events: int) -> AbstractContextManager[Ready]:
        """Make it put that many tasks on the queue."""


class Flowing(Peer, Protocol):
    """A peer that runs whole jobs."""

    def flowing(self, ground: Ground, shape: Shape) -> AbstractContextManager[Flow]:
        """Make everything ready for jobs of that shape."""


def on_sqs(
    ground: Ground,
    command: Sequence[str],
    servers: Sequence[str],
    done: Callable[[], int],
    *,
    copies: int = 1,
    bring: Callable[[], None] = lambda: None,
) -> Ready:
    """Return a peer that uses ``servers`` of the ground ("sqs" first)."""
    return Ready(
        command=command,
        copies=copies,
        bring=bring,
        servers={name: ground.servers[name] for name in servers},
        environment=ground.environment_through,
        done=done,
    )


def worked_off(ground: Ground, tasks: int) -> Callable[[], int]:
    """Return how many of ``tasks`` messages are deleted."""

    def done() -> int:
        depth = ground.queue.depth()
        return tasks - depth.available - depth.in_flight

    return done


def queue_depth(ground: Ground) -> Callable[[], int]:
    """Return the number of messages on a queue without receivers."""
    return lambda: ground.queue.depth().available
