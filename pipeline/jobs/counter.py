"""The completion counter of a split: a tree of sets, in which a duplicate counts once.

A leaf holds the parts of 256 consecutive ordinals, a node above holds 256 nodes, the top is the root. A part
that is done is added to its leaf's set. The writer that finds the set full adds the leaf to its parent, and
so on; the writer that finds the root full sends the gather. A write is repeated until it is answered, and
the message that caused it is deleted only then. So a crash anywhere is repaired by the redelivery: it adds
the same part again, and climbs on. Consecutive ordinals share a leaf, because workers finish them about
together: 0.03 to 0.21 writes a part when coalesced, against 0.6 to 1.0 for ``ordinal mod leaves``
(simulated).

Failures count beside, never instead: done always wins, and nothing is ever removed from a set.

- a leaf has ``f`` (failed) and ``r`` (redriven), both of ``"offset.generation"``; the failed parts are
  f minus r, less those that are done
- a node above has for each child a *phase* that only grows: 2g while the child runs in its generation g,
  2g + 1 once it ended so with failures. A failure of a generation that was redriven meanwhile comes too
  late to count.
- the generation of a leaf is the size of its ``r``, of a node above its counter ``g`` of redrives below

The only leaf of a small split also keeps small results (ADR 23): the write that counts a part stores its
result, unless the part is counted already. So the first result of a part stays, and done implies stored.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ServiceError
from pipeline.jobs.expressions import Item, all_of, below, lacks, missing
from pipeline.jobs.keys import FAN_OUT, Key, Keys
from pipeline.jobs.refs import PartRef, SplitRef
from pipeline.jobs.table import Table

#: The attribute with the phase of a child.
PHASE = "x"

#: Begins the attribute with the result of a part.
RESULT = "p:"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the counter of one split."""

    split: SplitRef
    total: int
    #: 0: a leaf, of parts.
    level: int
    index: int

    @property
    def is_top(self) -> bool:
        """Whether it is the root."""
        return width(self.total, self.level) == 1

    @property
    def children(self) -> int:
        """How many parts (of a leaf) or nodes are directly below."""
        below = self.total if self.level == 0 else width(self.total, self.level - 1)
        return min(FAN_OUT, below - self.index * FAN_OUT)

    @property
    def parent(self) -> "Node":
        """The node above."""
        return Node(split=self.split, total=self.total, level=self.level + 1, index=self.index // FAN_OUT)

    @property
    def offset(self) -> int:
        """Its place among its parent's children."""
        return self.index % FAN_OUT

    def child(self, offset: int) -> "Node":
        """Return one of the nodes directly below."""
        return Node(
            split=self.split, total=self.total, level=self.level - 1, index=self.index * FAN_OUT + offset
        )

    def key(self, keys: Keys) -> Key:
        """Return its key in the table."""
        if self.is_top:
            return keys.top(self.split.split_id)
        return keys.node(self.split.split_id, self.level, self.index)


def width(total: int, level: int) -> int:
    """Return how many nodes a level has."""
    per_node: int = FAN_OUT ** (level + 1)
    return max(1, -(-total // per_node))


def leaf_of(part: PartRef) -> Node:
    """Return the leaf in which a part is counted."""
    return Node(split=part.split, total=part.total, level=0, index=part.ordinal // FAN_OUT)


def top_of(split: SplitRef, total: int) -> Node:
    """Return the root of a split's counter."""
    level = 0
    while width(total, level) > 1:
        level += 1
    return Node(split=split, total=total, level=level, index=0)


@dataclass(frozen=True, kw_only=True)
class NodeState:
    """The state of a node, as its item says."""

    #: Offsets of the children that are done, and of those that ended with failures.
    done: frozenset[int]
    failed: frozenset[int]
    #: How many children there are.
    of: int
    generation: int
    #: The gather was sent (top only).
    closed: bool
    #: The ordinals of the parts that the gather goes on without, once that is fixed (top only).
    missing: frozenset[int] | None = None

    @property
    def full(self) -> bool:
        """Whether every child is done."""
        return len(self.done) == self.of

    @property
    def ended(self) -> bool:
        """Whether every child is done, or ended with failures."""
        return len(self.done) + len(self.failed) == self.of

    @property
    def phase(self) -> int:
        """The phase that its parent records for it."""
        return 2 * self.generation + 1 if self.failed else 2 * self.generation


def read_node(node: Node, item: Item) -> NodeState:
    """Return the state in a node's item."""
    done: frozenset[int] = item.get("d", frozenset())
    if node.level == 0:
        redriven: frozenset[str] = item.get("r", frozenset())
        ended = {int(entry.split(".")[0]) for entry in item.get("f", frozenset()) - redriven}
        generation = len(redriven)
    else:
        ended = {int(name[1:]) for name, phase in item.items() if _is_phase(name) and phase % 2}
        generation = item.get("g", 0)
    return NodeState(
        done=done,
        failed=frozenset(ended) - done,
        of=node.children,
        generation=generation,
        closed="closed_at" in item,
        missing=item.get("missing"),
    )


def _is_phase(name: str) -> bool:
    return name[0] == PHASE and name[1:].isdigit()


@dataclass(kw_only=True)
class Marks:
    """The entries to record in one node, and the caller's outcomes that they come from."""

    done: set[int] = field(default_factory=set)
    #: A leaf: the results of parts that are done and whose results it keeps, by offset.
    results: dict[int, Item] = field(default_factory=dict)
    #: A leaf: ``"offset.generation"``.
    failed: set[str] = field(default_factory=set)
    #: Above: the phases of children.
    phases: dict[int, int] = field(default_factory=dict)
    origins: set[int] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class EndedSplit:
    """A split that ended: full, or with failures in its root's ``state``."""

    node: Node
    state: NodeState
    origins: frozenset[int]


@dataclass(kw_only=True)
class Climb:
    """The result of recording a batch of outcomes: the splits that ended, and errors."""

    ended: list[EndedSplit] = field(default_factory=list)
    #: The errors of outcomes to record again, by their index.
    errors: dict[int, ServiceError] = field(default_factory=dict)


class Counter:
    """The counters of all splits."""

    def __init__(self, table: Table, keys: Keys, expiry: Callable[[], int]) -> None:
        """``expiry`` gives the ``exp`` of an item written now."""
        self._table = table
        self._keys = keys
        self._expiry = expiry

    def record(self, leaves: Mapping[Node, Marks]) -> Climb:
        """Record outcomes in their leaves, and climb as far as they fill or end nodes."""
        return self._climb(leaves, Climb())

    def resume(self, leaves: Mapping[Node, frozenset[int]], items: Mapping[Key, Item]) -> Climb:
        """Climb on from leaves that were just read: a worker may have died after its write to one."""
        climb = Climb()
        upper: dict[Node, Marks] = {}
        for leaf, origins in leaves.items():
            state = read_node(leaf, items.get(leaf.key(self._keys), {}))
            self._rise(leaf, state, origins, upper, climb)
        return self._climb(upper, climb)

    def redrive(self, leaf: Node, entries: Iterable[str]) -> int:
        """Set failed parts (``"offset.generation"``) of one leaf to running.

        Return the generation of the root afterwards. A repetition changes nothing, and goes on where a crash
        cut it short.
        """
        node, state = leaf, read_node(leaf, self._update(leaf, add={"r": set(entries)}))
        while not node.is_top:
            child, node = node, node.parent
            phase = {f"{PHASE}{child.offset}": 2 * state.generation}
            state = read_node(node, self._update(node, put=phase, add={"g": 1}))
        return state.generation

    def closed(self, split: SplitRef, total: int, now: float) -> tuple[Key, Item]:
        """Return the key of a split's root, and what it has once the gather is sent."""
        return top_of(split, total).key(self._keys), {"closed_at": now, "exp": self._expiry()}

    def go_on_without(self, top: Node, most: int) -> frozenset[int] | None:
        """Fix for ever which failed parts a gather goes on without; return None for more than ``most``.

        A part of them that is redriven meanwhile, and succeeds, comes too late.
        """
        if (fixed := self.states([top])[top].missing) is not None:
            return fixed
        failed = self._failed_parts(top, most)
        if not 0 < len(failed) <= most:
            return None
        updated = self._table.update(
            top.key(self._keys),
            put={"missing": frozenset(failed), "exp": self._expiry()},
            when=missing("missing"),
        )
        missing_parts: frozenset[int] = updated.item["missing"]
        return missing_parts

    def missing(self, split: SplitRef, total: int) -> frozenset[int]:
        """Return the parts that a gather goes on without, as fixed; none when that was never needed."""
        top = top_of(split, total)
        return self.states([top])[top].missing or frozenset()

    def kept(self, split: SplitRef, total: int) -> dict[int, Item]:
        """Return by ordinal what the only leaf of a small split keeps of its parts."""
        item = self._table.get(top_of(split, total).key(self._keys)) or {}
        kept = ((name.removeprefix(RESULT), each) for name, each in item.items() if name.startswith(RESULT))
        return {int(ordinal): each for ordinal, each in kept}

    def _failed_parts(self, top: Node, most: int) -> list[int]:
        """Return the ordinals of failed parts, read from the top down; stop after more than ``most``."""
        failed: list[int] = []
        nodes = [top]
        while nodes and len(failed) <= most:
            below: list[Node] = []
            for node, state in self.states(nodes).items():
                if node.level == 0:
                    failed += [node.index * FAN_OUT + offset for offset in state.failed]
                else:
                    below += [node.child(offset) for offset in state.failed]
            nodes = below
        return failed

    def states(self, nodes: Sequence[Node]) -> dict[Node, NodeState]:
        """Return the states of nodes as they are now."""
        items = self._table.get_many(node.key(self._keys) for node in nodes)
        return {node: read_node(node, items.get(node.key(self._keys), {})) for node in nodes}

    def _climb(self, nodes: Mapping[Node, Marks], climb: Climb) -> Climb:
        while nodes:
            steps = list(nodes.items())
            upper: dict[Node, Marks] = {}
            for (node, marks), state in zip(steps, self._table.each(self._mark, steps), strict=True):
                if isinstance(state, ServiceError):
                    climb.errors |= dict.fromkeys(marks.origins, state)
                else:
                    self._rise(node, state, marks.origins, upper, climb)
            nodes = upper
        return climb

    def _rise(
        self, node: Node, state: NodeState, origins: Iterable[int], upper: dict[Node, Marks], climb: Climb
    ) -> None:
        """Add to ``upper`` what the node above must record, if anything."""
        if not state.ended:
            return
        if node.is_top:
            climb.ended.append(EndedSplit(node=node, state=state, origins=frozenset(origins)))
            return
        marks = upper.setdefault(node.parent, Marks())
        marks.origins |= set(origins)
        if state.full:
            marks.done.add(node.offset)
        else:
            marks.phases[node.offset] = state.phase

    def _mark(self, step: tuple[Node, Marks]) -> NodeState:
        node, marks = step
        item = self._keep(node, marks.results) if marks.results else {}
        sets = {name: each for name, each in (("d", marks.done), ("f", marks.failed)) if each}
        if sets:
            item = self._update(node, add=sets)
        for offset, phase in marks.phases.items():
            item = self._update(node, put={f"{PHASE}{offset}": phase})
        return read_node(node, item)

    def _keep(self, node: Node, results: Mapping[int, Item]) -> Item:
        """Count parts and store their results, but not those of parts that are counted already."""
        updated = self._table.update(
            node.key(self._keys),
            put={
                **{f"{RESULT}{offset}": result for offset, result in results.items()},
                "n": node.total,
                "exp": self._expiry(),
            },
            add={"d": set(results)},
            when=all_of(*(lacks("d", offset) for offset in results)),
        )
        done = updated.item.get("d", ())
        left = {offset: result for offset, result in results.items() if offset not in done}
        return self._keep(node, left) if left else updated.item

    def _update(
        self, node: Node, put: Mapping[str, int] | None = None, add: Mapping[str, Any] | None = None
    ) -> Item:
        """Update a node; a phase only if it grows. Return the item as it is afterwards."""
        ((name, phase),) = put.items() if put else ((None, 0),)
        updated = self._table.update(
            node.key(self._keys),
            put={**(put or {}), "n": node.total, "exp": self._expiry()},
            add=add,
            when=below(name, phase) if name else None,
        )
        return updated.item
