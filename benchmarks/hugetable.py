"""A table in memory that holds a split of millions of parts in a bit for each of its items.

It knows what the engine writes of a split whose part N is the number N: pages, results and the lower nodes of
the counter. It compares each such item with what it must be, and makes it again when it is read. Other items
are kept as they are.
"""

import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

from pipeline.jobs.keys import FAN_OUT, Key
from pipeline.jobs.splits import PAGE_PARTS, SEPARATOR
from tests.fakes.dynamodb import FakeDynamoDB

Raw = dict[str, Any]


class HugeTable(FakeDynamoDB):
    """The client of such a table."""

    def __init__(self, parts: int, result: Callable[[int], str]) -> None:
        """``result``: the JSON of each part's result, by its ordinal."""
        super().__init__()
        self.split = SplitItems(parts, result)
        self.items = self.split

    def query(self, **fields: Any) -> Raw:
        """Return the results of a leaf, or what the table has under another key."""
        pk = next(iter(fields["ExpressionAttributeValues"].values()))["S"]
        if "/R#" not in pk:
            return super().query(**fields)
        return {"Items": self.split.results_of(pk)}


class SplitItems(MutableMapping[Key, Raw]):
    """The items of the table by key; those of the split are made when they are asked for."""

    def __init__(self, parts: int, result: Callable[[int], str]) -> None:
        self.parts = parts
        #: Pages written, and results read.
        self.pages = self.read = 0
        self._result = result
        self._others: dict[Key, Raw] = {}
        #: What all items of a kind have beside what tells them apart.
        self._alike: dict[str, Raw] = {}
        self._lock = threading.Lock()
        self._results = Bits(parts)
        self._nodes = [Bits(parts), Bits(-(-parts // FAN_OUT))]

    @property
    def written(self) -> int:
        """Return the number of parts in pages."""
        return min(self.parts, self.pages * PAGE_PARTS)

    def __getitem__(self, key: Key) -> Raw:
        kind = _kind(key[0])
        if kind == "R" and int(key[1]) in self._results:
            return self._made(key, kind, result={"S": self._result(int(key[1]))})
        if kind == "P" and (page := _page(key[0])) is not None and page < self.pages:
            packed = zlib.compress(SEPARATOR.join(self._page(page)).encode())
            return self._made(key, kind, first={"N": str(page * PAGE_PARTS)}, parts={"B": packed})
        if kind == "L" and (node := self._node(key[0])) and (members := node[0].members(node[1], FAN_OUT)):
            return self._made(key, kind, d={"NS": sorted(map(str, members))})
        return self._others[key]

    def __setitem__(self, key: Key, item: Raw) -> None:
        kind = _kind(key[0])
        if kind == "R":
            assert item["result"]["S"] == self._result(int(key[1])), f"the result of part {key[1]}"
            self._keep_alike(kind, item, "result")
            self._results.add([int(key[1])])
        elif kind == "P" and (page := _page(key[0])) is not None:
            found = zlib.decompress(item["parts"]["B"]).decode().split(SEPARATOR)
            assert (page, found) == (self.pages, self._page(page)), f"page {page}"
            self._keep_alike(kind, item, "first", "parts")
            self.pages += 1
        elif kind == "L" and (node := self._node(key[0])):
            self._keep_alike(kind, item, "d")
            node[0].add(node[1] + int(member) for member in item["d"]["NS"])
        else:
            self._others[key] = item

    def results_of(self, pk: str) -> list[Raw]:
        """Return the results under the key of a leaf, in order."""
        first = int(pk.rsplit("#", 1)[1]) * FAN_OUT
        found = [self[pk, f"{first + each:09d}"] for each in self._results.members(first, FAN_OUT)]
        with self._lock:
            self.read += len(found)
        return found

    def __delitem__(self, key: Key) -> None:
        del self._others[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._others)

    def __len__(self) -> int:
        return len(self._others)

    def _page(self, page: int) -> list[str]:
        first = page * PAGE_PARTS
        return [str(ordinal) for ordinal in range(first, min(self.parts, first + PAGE_PARTS))]

    def _node(self, pk: str) -> "tuple[Bits, int] | None":
        """Return the bits of a node of the two lowest levels, and its first one; None for another node."""
        level = pk.split("#")[2]
        if level not in ("0", "1"):
            return None
        return self._nodes[int(level)], int(pk.rsplit("#", 1)[1]) * FAN_OUT

    def _made(self, key: Key, kind: str, **own: Raw) -> Raw:
        return {"pk": {"S": key[0]}, "sk": {"S": key[1]}, **self._alike[kind], **own}

    def _keep_alike(self, kind: str, item: Raw, *own: str) -> None:
        alike = {name: value for name, value in item.items() if name not in ("pk", "sk", *own)}
        assert self._alike.setdefault(kind, alike) == alike, f"{alike}, not {self._alike[kind]}"


class Bits:
    """A set of numbers below a limit. Threads may share it."""

    def __init__(self, limit: int) -> None:
        self._bytes = bytearray(-(-limit // 8))
        self._lock = threading.Lock()

    def add(self, numbers: Iterable[int]) -> None:
        """Add numbers."""
        with self._lock:
            for number in numbers:
                self._bytes[number >> 3] |= 1 << (number & 7)

    def __contains__(self, number: int) -> bool:
        return bool(self._bytes[number >> 3] & 1 << (number & 7))

    def members(self, first: int, count: int) -> list[int]:
        """Return which of ``count`` numbers from ``first`` are in it, counted from there: 8 divides it."""
        found = int.from_bytes(self._bytes[first >> 3 : (first + count + 7) >> 3], "little")
        return [offset for offset in range(count) if found >> offset & 1]


def _kind(pk: str) -> str:
    return pk.split("/", 1)[1].split("#", 1)[0]


def _page(pk: str) -> int | None:
    last = pk.rsplit("#", 1)[1]
    return int(last) if last.isdecimal() else None
