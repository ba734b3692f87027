"""A peer: something that works off a queue or fills one, made ready for one measurement."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from benchmarks.ground import Ground


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What is to be done stands ready; the command does it."""

    command: Sequence[str]
    #: How many processes of it run.
    copies: int = 1
    #: The servers that it uses over the network to be measured, as URLs by name. Requests of the first count.
    servers: Mapping[str, str]
    #: Its environment when those are reached at other URLs.
    environment: Callable[[Mapping[str, str]], Mapping[str, str]]
    #: How much is done. Asked for past the proxy.
    done: Callable[[], int]
    #: Brings what is to be done, once its processes run; by default it is there before.
    bring: Callable[[], None] = lambda: None


class Peer(Protocol):
    """One file in ``benchmarks.peers``."""

    #: What its rows are called.
    name: str

    def missing(self) -> str | None:
        """What it needs that is not installed; None when it can run."""


class Working(Peer, Protocol):
    """A peer of the worker."""

    def working(self, ground: Ground, tasks: int) -> AbstractContextManager[Ready]:
        """That many tasks are on a queue, and it works them off."""


class Sending(Peer, Protocol):
    """A peer of the bridge."""

    def sending(self, ground: Ground, events: int) -> AbstractContextManager[Ready]:
        """It puts that many tasks on the queue."""


def on_sqs(
    ground: Ground,
    command: Sequence[str],
    servers: Sequence[str],
    done: Callable[[], int],
    *,
    copies: int = 1,
    bring: Callable[[], None] = lambda: None,
) -> Ready:
    """A peer that uses ``servers`` of the ground ("sqs" first)."""
    return Ready(
        command=command,
        copies=copies,
        bring=bring,
        servers={name: ground.servers[name] for name in servers},
        environment=ground.environment_through,
        done=done,
    )


def worked_off(ground: Ground, tasks: int) -> Callable[[], int]:
    """How many of ``tasks`` messages are deleted."""

    def done() -> int:
        depth = ground.queue.depth()
        return tasks - depth.available - depth.in_flight

    return done


def arrived(ground: Ground) -> Callable[[], int]:
    """How many messages are on the queue, which nobody receives from."""
    return lambda: ground.queue.depth().available
