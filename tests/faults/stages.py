"""The stages of the load: ordered, two hops, split. Each run writes a line to a file.

Named in TASK_MODULES, loaded by nothing else. The lines are the effects of user code: what an e-mail or a
payment would be.
"""

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel

from pipeline import PermanentError, current_task, stage


class Item(BaseModel):
    """One item of work."""

    #: Unique among all.
    key: str
    entity: str
    #: Its place among those of its entity.
    seq: int
    parts: int = 0
    seconds: float = 0.0
    #: Misbehaviour of the run: see ``misbehave``.
    do: str = ""
    #: The only part that misbehaves; None: all.
    only: int | None = None


class Piece(BaseModel):
    """One part of an item."""

    item: Item
    ordinal: int


class Result(BaseModel):
    """The result of an item."""

    key: str
    entity: str
    seq: int
    #: Of a split: how many parts were gathered, and the sum of their numbers.
    parts: int = 0
    total: int = 0


class Forwarded(Item):
    """An item on its second hop."""


def note(what: str, stage_name: str, key: str, ordinal: int | None = None) -> None:
    """Write a line, in one piece even if many processes write."""
    task = current_task()
    line = {
        "what": what,
        "stage": stage_name,
        "key": key,
        "part": ordinal,
        "attempt": task.attempt if task else 0,
        "at": time.time(),
        "pid": os.getpid(),
    }
    descriptor = os.open(os.environ["FAULTS_EFFECTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


def work(stage_name: str, item: Item, ordinal: int | None = None) -> None:
    """Run once: write a line at the start and one at the effect."""
    do = item.do if item.only in (None, ordinal) else ""
    note("start", stage_name, item.key, ordinal)
    time.sleep(item.seconds)
    if do.startswith("early-"):
        misbehave(do.removeprefix("early-"), item.key)
    note("end", stage_name, item.key, ordinal)
    if not do.startswith("early-"):
        misbehave(do, item.key)


def misbehave(do: str, key: str) -> None:
    """Misbehave: ``X-once``, ``X-twice`` in the first runs, ``X-until-mended`` until then, ``X`` always."""
    flags = Path(os.environ["FAULTS_EFFECTS"]).parent
    for number, suffix in enumerate(("-once", "-twice"), start=1):
        if do.endswith(suffix):
            do = do.removesuffix(suffix)
            done = len(list(flags.glob(f"did-{key}-*")))
            if done == number:
                return
            (flags / f"did-{key}-{done}").touch()
    if do.endswith("-until-mended"):
        do = do.removesuffix("-until-mended")
        if (flags / "mended").exists():
            return
    match do:
        case "kill-child":  # as the kernel does when memory runs out
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill-worker":  # and all its children: a power cut
            # Only a living worker's own group: an orphan's parent is somebody else.
            if os.getpgid(os.getppid()) == os.getppid() != 1:
                os.killpg(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        case "fail":
            raise ValueError("as asked")
        case "refuse":
            raise PermanentError("as asked")


@stage(consumes="arrivals", emits="admitted", ordered=True)
def admit(item: Item) -> Result:
    """Handle an entity's events in order."""
    work("admit", item)
    return Result(key=item.key, entity=item.entity, seq=item.seq)


@stage(consumes="parcels", emits="weighed")
def weigh(item: Item) -> Forwarded:
    """The first of two hops."""
    work("weigh", item)
    return Forwarded(key=item.key, entity=item.entity, seq=item.seq)


@stage(consumes="weighed", emits="shipped")
def ship(item: Forwarded) -> Result:
    """The second."""
    work("ship", item)
    return Result(key=item.key, entity=item.entity, seq=item.seq)


@stage(consumes="crates", emits="counted")
def count_crate(piece: Piece) -> int:
    """One part."""
    work("count_crate", piece.item, piece.ordinal)
    return piece.ordinal


@count_crate.split
def pieces(item: Item) -> Iterator[Piece]:
    """Yield the item's number of parts, and more at each further run if the item ``grows``."""
    note("split", "count_crate", item.key)
    more = earlier_runs(item.key) if item.do == "grows" else 0
    for ordinal in range(item.parts + more):
        yield Piece(item=item, ordinal=ordinal)


def earlier_runs(key: str) -> int:
    """Return how often this was called for the same item before."""
    flags = Path(os.environ["FAULTS_EFFECTS"]).parent
    earlier = len(list(flags.glob(f"split-{key}-*")))
    (flags / f"split-{key}-{earlier}").touch()
    return earlier


@count_crate.gather
def crate(item: Item, ordinals: Iterable[int]) -> Result:
    """All of them."""
    found = list(ordinals)
    note("gather", "count_crate", item.key)
    return Result(key=item.key, entity=item.entity, seq=item.seq, parts=len(found), total=sum(found))
