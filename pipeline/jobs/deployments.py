"""Deployments: which versions of a service's stages have a live bridge, so that all bridges agree on plans.

Each bridge announces its routes every few seconds. The record of a deployment stays as long as a job of it
may be open: its topics are still to be read.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.jobs.keys import Keys
from pipeline.jobs.table import Table
from pipeline.wire.plans import Route, dump_routes, load_routes

#: Seconds between two announcements of a bridge, and after which a deployment without one has no live bridge.
ANNOUNCE_EVERY, GONE_AFTER = 5.0, 30.0


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One version of a service's stages, as its bridges announced it."""

    #: A function of the routes: two bridges with the same stages are one deployment.
    id: str
    routes: tuple[Route, ...]
    #: When its first bridge announced it, after a time without any; seconds since 1970.
    first_at: float
    #: When a bridge announced it last; seconds since 1970.
    seen_at: float

    def is_live(self, now: float) -> bool:
        """Whether a bridge of it runs."""
        return self.seen_at >= now - GONE_AFTER


class Deployments:
    """The deployments of one service."""

    def __init__(
        self,
        table: Table,
        keys: Keys,
        expiry: Callable[[], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``expiry`` gives the ``exp`` of an item written now."""
        self._table = table
        self._keys = keys
        self._expiry = expiry
        self._clock = clock

    def all(self) -> list[Deployment]:
        """Return every deployment whose jobs may be open, live or not."""
        return [
            Deployment(
                id=item["sk"],
                routes=load_routes(item["routes"]),
                first_at=item["first_at"],
                seen_at=item["seen_at"],
            )
            for item in self._table.query(self._keys.deployments())
        ]

    def announce(self, routes: Iterable[Route], first_at: float) -> None:
        """Record that a bridge with these routes runs, of a deployment first seen at ``first_at``."""
        known = tuple(routes)
        self._table.update(
            (self._keys.deployments(), deployment_id(known)),
            put={
                "routes": dump_routes(known),
                "first_at": round(first_at, 3),
                "seen_at": round(self._clock(), 3),
                "exp": self._expiry(),
            },
        )

    def first_seen(self, routes: Iterable[Route]) -> float:
        """Return since when a deployment has had a live bridge: now, where it has none."""
        own, now = deployment_id(routes), self._clock()
        live = [each.first_at for each in self.all() if each.id == own and each.is_live(now)]
        return min([now, *live])


def deployment_id(routes: Iterable[Route]) -> str:
    """Return the id of the deployment that has these routes, in any order."""
    ordered = sorted(routes, key=lambda route: route.name)
    return hashlib.sha256(dump_routes(ordered).encode()).hexdigest()[:16]


def current(deployments: Sequence[Deployment], now: float) -> Deployment | None:
    """Return the live deployment that was first seen last; None where no bridge runs."""
    live = [each for each in deployments if each.is_live(now)]
    return max(live, key=lambda each: (each.first_at, each.id), default=None)
