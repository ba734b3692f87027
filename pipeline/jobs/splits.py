"""Splits: the seal that fixes the parts for ever, the pages that hold them, and the parts' results.

The seal is the split's commit point: one conditional write, after every page is written, before the first
part is sent. Pages are under the key of the run that wrote them, so two runs of one split never mix; the
loser's pages are never read, and expire.

Parts are stored compressed: those of one split look alike, and a write costs by the kilobyte.
"""

import uuid
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.author.stages import NewPart
from pipeline.errors import PermanentError, ResultTooLargeError, ServiceError
from pipeline.jobs.counter import Counter
from pipeline.jobs.expressions import Item
from pipeline.jobs.jobrecords import LAYOUT
from pipeline.jobs.keys import FAN_OUT, Key, Keys
from pipeline.jobs.model import PartResult, SealedPart, SealedSplit, sealed_parts
from pipeline.jobs.refs import SplitRef
from pipeline.jobs.table import ITEM_BYTES, Table
from pipeline.payloads import SET_BUCKET, Payloads, PayloadsOffError
from pipeline.wire.references import Reference, from_text, to_text

#: A page holds at most this many parts.
PAGE_PARTS = 256

#: The largest part, in bytes of JSON: it must fit a page.
PART_BYTES = 380_000

#: Up to this many compressed bytes, parts and data are inside the seal. A job's seals are read with the
#: rest of the job's small items.
INLINE_BYTES = 32_000

#: Pages written in one request: 16 MB is the most (BatchWriteItem, API reference).
PAGES_AT_ONCE = 8

#: A split of at most this many parts keeps their results in its counter, where they are small: in all
#: ``KEPT_BYTES`` of JSON. An update costs by the size of the whole item: 4 parts of 500 bytes cost as much as
#: apart, smaller ones half, in half the requests.
KEPT_PARTS, KEPT_BYTES = 8, 2_000

#: Page tasks of a split that are open at a time: one for each so many parts (200 page tasks), at least and at
#: most so many. The tasks of a small job wait behind their parts: half a percent of a large split. Pinned in
#: the seal: each page task sends the one that comes so many later, so all must agree.
PARTS_PER_OPEN, FEWEST_OPEN, MOST_OPEN = 51_200, 2, 16

#: Of a part's result, for the gather: half its CPU for all of them.
_RESULT = ("sk", "result")

#: The attributes of a seal that tell its tolerance, and whose it is.
_TOLERANCE = ("n", "split", "tolerate")

#: Keeps JSON texts apart, as in RFC 7464: no JSON text contains it.
SEPARATOR = "\x1e"


class Splits:
    """The seals, pages and results of all splits."""

    def __init__(
        self,
        table: Table,
        keys: Keys,
        counter: Counter,
        expiry: Callable[[], int],
        payloads: Payloads,
        *,
        max_parts: int,
    ) -> None:
        """``expiry`` gives the ``exp`` of an item written now. ``max_parts``: the most of one split.

        ``payloads`` keep the parts and results that are too large for the table.
        """
        self._payloads = payloads
        self._table = table
        self._keys = keys
        self._counter = counter
        self._expiry = expiry
        self._max_parts = max_parts

    def sealed(self, split: SplitRef) -> SealedSplit | None:
        """Return the sealed split, whose user code must not run again; None when it is not sealed yet."""
        return self.sealed_many([split]).get(split)

    def sealed_many(self, splits: Iterable[SplitRef]) -> dict[SplitRef, SealedSplit]:
        """Return those of the splits that are sealed, read together."""
        keys = {split: self._keys.seal(split) for split in splits}
        items = self._table.get_many(keys.values())
        if others := [split for split, key in keys.items() if _is_others(split, items.get(key))]:
            keys |= {split: self._keys.further_seal(split) for split in others}
            items |= self._table.get_many(keys[split] for split in others)
        return {
            split: self._read(split, items[key]) for split, key in keys.items() if "n" in items.get(key, {})
        }

    def unsealed(self, split: SplitRef) -> int | None:
        """Return the layout of the job of a split that is not sealed yet; None for a sealed one."""
        seal, meta = self._keys.seal(split), self._keys.meta(split.job_id)
        items = self._table.get_many([seal, meta])
        if _is_others(split, items.get(seal)):
            seal = self._keys.further_seal(split)
            items |= self._table.get_many([seal])
        return None if "n" in items.get(seal, {}) else items.get(meta, {}).get("layout", 1)

    def tolerance(self, split: SplitRef) -> float:
        """Return the share of its parts that the gather may go on without, as it was sealed."""
        item = self._table.get(self._keys.seal(split), attributes=_TOLERANCE)
        if _is_others(split, item):
            item = self._table.get(self._keys.further_seal(split), attributes=_TOLERANCE)
        return float((item or {}).get("tolerate", 0))

    def seal(
        self,
        split: SplitRef,
        header: str,
        data: str | Reference,
        parts: Iterable[str | NewPart],
        tolerate: float = 0,
        layout: int = 1,
    ) -> SealedSplit:
        """Fix the parts (JSON) of a split for ever; send them only afterwards.

        Write the parts as they come, then the seal. If another run sealed the split first, return its parts.
        A part is JSON, or has its own entity beside it. ``header`` and ``data`` (JSON, or the reference to
        it) are kept for the gather's message. ``tolerate``: the share of the parts that may fail.
        ``layout``: of the job's records. Raise what ``parts`` raises, ``ResultTooLargeError`` for a part that
        neither the table nor S3 takes, and
        ``PermanentError`` for more parts than MAX_PARTS, of which none is sent.
        """
        run = uuid.uuid4().hex
        pages = _PageWriter(self._table, self._keys, split.split_id, run, self._expiry())
        total, last = pages.write(self._fitted(split, self._bounded(split, parts)))
        packed_data, packed_parts, entities = _pack([to_text(data)]), _pack(last.parts), _pack(last.entities)
        item: Item = {"n": total, "run": run, "split": split.split_id, "header": header, "exp": pages.expiry}
        if tolerate:
            item["tolerate"] = tolerate
        if layout == LAYOUT and _may_keep(total):
            item["keeps"] = True
        if layout == LAYOUT and (window := window_of(total)) > FEWEST_OPEN:
            item["window"] = window
        if pages.keyed:
            item["keyed"] = True
        size = len(packed_data) + len(packed_parts) + len(entities) + len(header)
        if pages.count == 0 and size <= INLINE_BYTES:
            item |= {"pages": 0, "data": packed_data, "parts": packed_parts}
            item |= {"entities": entities} if entities else {}
        else:
            pages.end(last)
            item |= {"pages": pages.count, **self._store_data(split, run, packed_data)}
        winner = self._table.put_new(self._keys.seal(split), item, unless="n")
        if _is_others(split, winner):
            winner = self._table.put_new(self._keys.further_seal(split), item, unless="n")
        return self._read(split, winner or item)

    def parts(self, sealed: SealedSplit) -> Iterator[tuple[int, str | Reference]]:
        """Yield every part (JSON, or the reference to it) with its ordinal, fetched page by page."""
        yield from enumerate(sealed.inline)
        for page in range(sealed.pages):
            yield from ((part.ordinal, part.data) for part in self.page(sealed, page))

    def page(self, sealed: SealedSplit, page: int) -> list[SealedPart]:
        """Return the parts of one of ``sealed.pages`` pages."""
        item = self._table.get(self._keys.page(sealed.split.split_id, sealed.run, page))
        if item is None:
            raise PermanentError(
                f"Page {page} of the sealed split {sealed.split.split_id} (stage {sealed.split.stage}) "
                "is gone: it expired"
            )
        entities = _unpack(item["entities"]) if "entities" in item else []
        return sealed_parts(item["first"], [*map(from_text, _unpack(item["parts"]))], entities)

    # ─── Results ───

    def put_results(self, results: Sequence[PartResult]) -> list[ServiceError | ResultTooLargeError | None]:
        """Store the results of parts before they are recorded done; the first result of a part stays.

        One that is too large for an item is put on S3 first.
        """
        answers: list[ServiceError | ResultTooLargeError | None] = [None] * len(results)
        fitting, items = [], []
        for index, result in enumerate(results):
            try:
                item = self._result_item(result)
            except (ServiceError, ResultTooLargeError) as refused:
                answers[index] = refused
            else:
                fitting.append(index)
                items.append((self._keys.result(result.ref), item))
        for index, error in zip(fitting, self._table.insert_many(items).errors, strict=True):
            answers[index] = error
        return answers

    def missing(self, sealed: SealedSplit) -> frozenset[int]:
        """Return the ordinals of the parts that the gather goes on without, as fixed before it was sent."""
        return self._counter.missing(sealed.split, sealed.total) if sealed.tolerate else frozenset()

    def results(self, split: SplitRef, total: int, missing: Collection[int] = ()) -> Iterator[str]:
        """Yield the results (JSON) of all parts but ``missing``, in order; raise if one is gone."""
        if _may_keep(total):
            yield from self._few_results(split, total, missing)
            return
        leaves = [self._keys.results(split.split_id, leaf) for leaf in range(-(-total // FAN_OUT))]
        for leaf, items in enumerate(self._table.query_each(leaves, attributes=_RESULT)):
            last = min(total, (leaf + 1) * FAN_OUT)
            expected = [each for each in range(leaf * FAN_OUT, last) if each not in missing]
            for item in items:
                ordinal = int(item["sk"])
                if ordinal in missing:
                    continue
                if not expected or ordinal != expected[0]:
                    break
                yield self._result_in(item)
                expected.pop(0)
            if expected:
                raise _gone(split, total, expected[0])

    def _few_results(self, split: SplitRef, total: int, missing: Collection[int]) -> Iterator[str]:
        """Yield the results of a small split, each from its counter or from an item of its own."""
        found = self._counter.kept(split, total)
        expected = [each for each in range(total) if each not in missing]
        if not found.keys() >= set(expected):
            stored = self._table.query(self._keys.results(split.split_id, 0), attributes=_RESULT)
            found = {int(item["sk"]): item for item in stored} | found
        for ordinal in expected:
            if ordinal not in found:
                raise _gone(split, total, ordinal)
            yield self._result_in(found[ordinal])

    def _bounded(self, split: SplitRef, parts: Iterable[str | NewPart]) -> Iterator[str | NewPart]:
        for count, part in enumerate(parts, start=1):
            if count > self._max_parts:
                raise PermanentError(
                    f"The split of stage {split.stage} makes more than MAX_PARTS={self._max_parts} parts: "
                    "make fewer and larger ones, or set MAX_PARTS higher"
                )
            yield part

    def _fitted(self, split: SplitRef, parts: Iterable[str | NewPart]) -> Iterator[NewPart]:
        """Yield the parts as pages hold them: of one that is too large, the reference to it."""
        for ordinal, each in enumerate(parts):
            part, entity = each if isinstance(each, NewPart) else (each, None)
            size = len(part.encode())
            if size <= PART_BYTES:
                yield NewPart(part, entity)
                continue
            try:
                kept = self._payloads.put("part", f"{split.split_id}.{ordinal}", part.encode())
            except PayloadsOffError as error:
                raise ResultTooLargeError(
                    f"Part {ordinal} of the split has {size:,} bytes of JSON, a part may have "
                    f"{PART_BYTES:,}: {SET_BUCKET}"
                ) from error
            yield NewPart(to_text(kept), entity)

    def _result_item(self, result: PartResult) -> Item:
        data = result.result.encode()
        item = {**run_item(result), "exp": self._expiry()}
        if len(data) <= ITEM_BYTES:
            return item
        try:
            kept = self._payloads.put("result", f"{result.ref.split_id}.{result.ref.ordinal}", data)
        except PayloadsOffError as error:
            raise ResultTooLargeError(
                f"The result of part {result.ref.ordinal} of stage {result.ref.stage} has {len(data):,} "
                f"bytes of JSON, a DynamoDB item holds {ITEM_BYTES:,}: {SET_BUCKET}"
            ) from error
        # Versions before references know no result but JSON, and fail to read this one.
        return item | {"result": to_text(kept)}

    def _result_in(self, item: Item) -> str:
        """Return the result (JSON) in an item; read it if it is on S3."""
        return self._payloads.text(from_text(item["result"]))

    # ─── The seal's own data ───

    def _store_data(self, split: SplitRef, run: str, packed: bytes) -> Item:
        if len(packed) <= INLINE_BYTES:
            return {"data": packed}
        pieces = [packed[start : start + ITEM_BYTES] for start in range(0, len(packed), ITEM_BYTES)]
        items: dict[Key, Item | None] = {
            self._keys.data_piece(split.split_id, run, number): {"data": piece, "exp": self._expiry()}
            for number, piece in enumerate(pieces)
        }
        _must(self._table.put_many(items))
        return {"pieces": len(pieces)}

    def _read(self, split: SplitRef, item: Item) -> SealedSplit:
        run = item["run"]
        packed = item["data"] if "data" in item else self._load_data(split, run, item["pieces"])
        return SealedSplit(
            split=split,
            total=item["n"],
            header=item["header"],
            data=from_text(_unpack(packed)[0]),
            run=run,
            pages=item["pages"],
            tolerate=float(item.get("tolerate", 0)),
            keeps=item.get("keeps", False),
            window=item.get("window", FEWEST_OPEN),
            inline=tuple(map(from_text, _unpack(item["parts"]))) if item.get("parts") else (),
            entities=tuple(_unpack(item["entities"])) if item.get("entities") else (),
            keyed=item.get("keyed", False),
        )

    def _load_data(self, split: SplitRef, run: str, pieces: int) -> bytes:
        keys = [self._keys.data_piece(split.split_id, run, number) for number in range(pieces)]
        found = self._table.get_many(keys)
        if len(found) < pieces:
            raise PermanentError(f"The data of split {split.split_id} (stage {split.stage}) expired")
        return b"".join(found[key]["data"] for key in keys)


@dataclass
class _Page:
    """Parts of one page, and their entities where they have their own."""

    parts: list[str] = field(default_factory=list)
    entities: list[str] = field(default_factory=list)
    #: Bytes.
    size: int = 0

    def add(self, part: str, entity: str | None, size: int) -> None:
        self.parts.append(part)
        if entity is not None:
            self.entities.append(entity)
        self.size += size


class _PageWriter:
    """Writes the pages of one run of a split as its parts come, a few at a time."""

    def __init__(self, table: Table, keys: Keys, split_id: str, run: str, expiry: int) -> None:
        self.count = 0
        #: Whether parts have entities of their own.
        self.keyed = False
        self.expiry = expiry
        self._table = table
        self._keys = keys
        self._split_id = split_id
        self._run = run
        self._waiting: dict[Key, Item | None] = {}
        self._first = 0

    def write(self, parts: Iterable[NewPart]) -> tuple[int, _Page]:
        """Write full pages; return the number of parts, and the last page, which is not written."""
        total, page = 0, _Page()
        for part, entity in parts:
            total += 1
            length = sum(len(text.encode()) + len(SEPARATOR) for text in (part, entity) if text is not None)
            if len(page.parts) == PAGE_PARTS or page.size + length > ITEM_BYTES:
                self._add(page)
                page = _Page()
            page.add(part, entity, length)
            self.keyed = entity is not None
        return total, page

    def end(self, page: _Page) -> None:
        """Write the last page, and the pages that wait to be written."""
        if page.parts:
            self._add(page)
        self._flush()

    def _add(self, page: _Page) -> None:
        key = self._keys.page(self._split_id, self._run, self.count)
        item: Item = {"first": self._first, "parts": _pack(page.parts), "exp": self.expiry}
        if page.entities:
            item["entities"] = _pack(page.entities)
        self._waiting[key] = item
        self._first += len(page.parts)
        self.count += 1
        if len(self._waiting) == PAGES_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        _must(self._table.put_many(self._waiting))
        self._waiting = {}


def _is_others(split: SplitRef, item: Item | None) -> bool:
    """Whether a seal is that of another split of the same stage and job."""
    return item is not None and "n" in item and item["split"] != split.split_id


def run_item(result: PartResult) -> Item:
    """Return what is stored of a part's run."""
    return {
        "result": result.result,
        "run_seconds": round(result.run_seconds, 6),
        "attempts": result.attempts,
    }


def is_small(result: PartResult) -> bool:
    """Whether a result is small enough for the counter of a split that keeps results."""
    return len(result.result.encode()) <= KEPT_BYTES // result.ref.total


def _may_keep(total: int) -> bool:
    """Whether a split of so many parts may keep results in its counter, which has one leaf then."""
    return 0 < total <= min(KEPT_PARTS, FAN_OUT)


def window_of(total: int) -> int:
    """Return how many page tasks of a new split are open at a time."""
    return min(max(total // PARTS_PER_OPEN, FEWEST_OPEN), MOST_OPEN)


def _gone(split: SplitRef, total: int, ordinal: int) -> PermanentError:
    return PermanentError(
        f"The result of part {ordinal} of {total} of split {split.split_id} "
        f"(stage {split.stage}) is missing: it expired"
    )


def tolerated_parts(share: float, total: int) -> int:
    """Return how many of ``total`` parts may fail, so that their share is at most ``share``.

    Shares are compared as floats, where 29 / 100 is 0.29 and 1 / 3 is 1 / 3; a product is not exact.
    """
    count = int(share * total)
    while count < total and (count + 1) / total <= share:
        count += 1
    return count


def _pack(texts: Sequence[str]) -> bytes:
    return zlib.compress(SEPARATOR.join(texts).encode()) if texts else b""


def _unpack(packed: bytes) -> list[str]:
    return zlib.decompress(packed).decode().split(SEPARATOR)


def _must(errors: dict[Key, ServiceError]) -> None:
    for error in errors.values():
        raise error
