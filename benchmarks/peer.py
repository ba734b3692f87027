"""A peer: something that consumes a queue of tasks, made ready for one measurement."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from benchmarks.ground import Ground


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A filled queue and how to consume it."""

    #: What consumes it.
    command: Sequence[str]
    #: The servers that it uses over the network to be measured, as URLs by name. Requests of the first count.
    servers: Mapping[str, str]
    #: Its environment when those are reached at other URLs.
    environment: Callable[[Mapping[str, str]], Mapping[str, str]]
    #: How many tasks are not done. Asked for past the proxy.
    remaining: Callable[[], int]


class Peer(Protocol):
    """One file in ``benchmarks.peers``."""

    #: What its rows are called.
    name: str

    def missing(self) -> str | None:
        """What it needs that is not installed; None when it can run."""

    def ready(self, ground: Ground, tasks: int) -> AbstractContextManager[Ready]:
        """Put that many tasks on a queue."""


def on_sqs(ground: Ground, command: Sequence[str], servers: Sequence[str]) -> Ready:
    """A peer that consumes the ground's task queue and talks to ``servers`` ("sqs" first)."""

    def remaining() -> int:
        depth = ground.queue.depth()
        return depth.available + depth.in_flight

    return Ready(
        command=command,
        servers={name: ground.servers[name] for name in servers},
        environment=ground.environment_through,
        remaining=remaining,
    )
