"""The cost of a job at AWS, step by step: requests, and DynamoDB's units.

This is the ledger of what the code asks for. Tests compare it with what a store and real processes ask for
(tests/unit/test_jobs_costs.py, tests/integration/test_flow_cost.py), and plans are made from it.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.capacity.shape import COMPRESSED, Shape
from pipeline.jobs.keys import FAN_OUT
from pipeline.jobs.splits import KEPT_BYTES, KEPT_PARTS, PAGES_AT_ONCE
from pipeline.sqs.messages import MAX_ENTRIES

#: Bytes of one unit (DynamoDB developer guide, "Read and write request units").
WRITE_BYTES, READ_BYTES = 1024, 4096

#: Units of the index by entity for a job, where a setting asks for it: an entry is written once, never moved.
ENTITY_WRITES = 1

#: Bytes of items beside the data in them: a job's record, a stage's, and that of the last stage in its job's.
JOB_BYTES, STAGE_BYTES, END_BYTES = 400, 180, 100
#: The same of a split: its seal, a page of parts, a leaf of the counter, and in it a part and a small result.
SEAL_BYTES, PAGE_BYTES, LEAF_BYTES, PART_BYTES, KEPT_BYTES_EACH = 560, 150, 90, 2.6, 40
#: The same of a part's result.
RESULT_BYTES = 105


@dataclass(frozen=True, kw_only=True)
class Step:
    """Requests that one step of a job makes."""

    #: The purpose.
    name: str
    #: AWS's name of the operation.
    operation: str
    #: Messages or items in the requests.
    entries: float = 1
    #: Requests of a job that runs alone.
    requests: float = 1
    #: Whether jobs that run together may share requests.
    is_shared: bool = True
    #: DynamoDB's units: of writes to the table, of writes to its index, of reads.
    writes: float = 0
    index_writes: float = 0
    reads: float = 0
    #: Bytes that stay in the table until the job's records expire.
    stored: float = 0


def steps_of(shape: Shape, leaf_writes: float | None = None) -> tuple[Step, ...]:
    """Return the steps of one job; receives and failed runs are not among them.

    ``leaf_writes``: the writes to a split's counter that count its parts. By default one for each part, as
    when each ends alone; those that end together share one.
    """
    return tuple(_steps(shape, shape.parts if leaf_writes is None else leaf_writes))


def bill(steps: Iterable[Step]) -> dict[str, float]:
    """Return requests by operation of a job that runs alone, and its units."""
    found: defaultdict[str, float] = defaultdict(float)
    for step in steps:
        found[step.operation] += step.requests
        found["write units"] += step.writes + step.index_writes
        found["read units"] += step.reads
    return {name: number for name, number in found.items() if number}


def _steps(shape: Shape, leaf_writes: float) -> Iterator[Step]:
    parts = shape.parts + shape.page_tasks
    others = shape.tasks - parts
    yield Step(name="send tasks", operation="SendMessageBatch", entries=others, requests=others)
    if parts:
        yield Step(
            name="send parts",
            operation="SendMessageBatch",
            entries=parts,
            requests=parts if shape.entities else math.ceil(parts / MAX_ENTRIES),
            # A request takes one message of a group, so that the group keeps its order.
            is_shared=not shape.entities,
        )
    yield Step(name="delete tasks", operation="DeleteMessageBatch", entries=shape.tasks, requests=shape.tasks)
    if shape.is_plain:
        return
    yield Step(
        name="open the job", operation="BatchExecuteStatement", writes=1, index_writes=1, stored=JOB_BYTES
    )
    if between := shape.stages - 1:
        yield Step(
            name="record stages",
            operation="BatchWriteItem",
            entries=between,
            requests=between,
            writes=between,
            stored=between * STAGE_BYTES,
        )
    if shape.parts:
        yield from _split(shape, leaf_writes)
    yield Step(name="record the last stage in the job", operation="UpdateItem", writes=1, stored=END_BYTES)
    # Its entry in the index moves from the open jobs to those of its day.
    yield Step(name="close the job", operation="BatchExecuteStatement", writes=1, index_writes=2)


def _split(shape: Shape, leaf_writes: float) -> Iterator[Step]:
    pages = shape.pages
    yield Step(name="look whether it is sealed", operation="BatchGetItem", entries=2, reads=2)
    if pages:
        page = PAGE_BYTES + shape.packed / pages
        yield Step(
            name="write pages of parts",
            operation="BatchWriteItem",
            entries=pages,
            requests=math.ceil(pages / PAGES_AT_ONCE),
            writes=pages * _units(page, WRITE_BYTES),
            stored=pages * page,
        )
        yield Step(
            name="read pages of parts",
            operation="GetItem",
            entries=pages,
            requests=pages,
            reads=pages * _units(page, READ_BYTES),
        )
    seal = SEAL_BYTES + shape.size * COMPRESSED + (0 if pages else shape.packed)
    yield Step(name="seal the split", operation="PutItem", writes=_units(seal, WRITE_BYTES), stored=seal)
    # The split, each page task and the gather's sender read it.
    readers = 2 + shape.page_tasks
    yield Step(
        name="read the seal",
        operation="BatchGetItem",
        entries=readers,
        requests=readers,
        reads=readers * _units(seal, READ_BYTES),
    )
    yield from _small_results(shape, leaf_writes) if keeps_results(shape) else _results(shape, leaf_writes)
    yield Step(name="close the split", operation="BatchExecuteStatement", writes=1)


def keeps_results(shape: Shape) -> bool:
    """Whether the counter of its split holds the results of the parts."""
    return 0 < shape.parts <= KEPT_PARTS and shape.size <= KEPT_BYTES // shape.parts


def _small_results(shape: Shape, leaf_writes: float) -> Iterator[Step]:
    leaf = LEAF_BYTES + shape.parts * (KEPT_BYTES_EACH + shape.size)
    yield Step(
        name="count parts, with their results",
        operation="UpdateItem",
        entries=leaf_writes,
        requests=leaf_writes,
        # An update costs by the size of the item, which grows until the last part.
        writes=leaf_writes * _mean_units(leaf),
        stored=leaf,
    )
    yield Step(name="gather results", operation="GetItem", reads=_units(leaf, READ_BYTES))


def _results(shape: Shape, leaf_writes: float) -> Iterator[Step]:
    parts, result = shape.parts, RESULT_BYTES + shape.size
    leaves, above = _nodes(parts)
    yield Step(
        name="store results",
        operation="BatchExecuteStatement",
        entries=parts,
        requests=parts,
        writes=parts * _units(result, WRITE_BYTES),
        stored=parts * result,
    )
    writes = max(leaves, leaf_writes) + above
    yield Step(
        name="count parts",
        operation="UpdateItem",
        entries=writes,
        requests=writes,
        writes=writes,
        stored=leaves * LEAF_BYTES + parts * PART_BYTES,
    )
    yield Step(
        name="gather results",
        operation="Query",
        entries=leaves,
        requests=leaves,
        reads=(leaves - 1) * _units(FAN_OUT * result, READ_BYTES)
        + _units((parts - (leaves - 1) * FAN_OUT) * result, READ_BYTES),
    )


def _nodes(parts: int) -> tuple[int, int]:
    """Return the leaves of the counter, and the nodes above them, each of which is written once a child."""
    leaves = width = math.ceil(parts / FAN_OUT)
    above = 0
    while width > 1:
        above += width
        width = math.ceil(width / FAN_OUT)
    return leaves, above


def _units(size: float, unit: int) -> int:
    return max(1, math.ceil(size / unit))


def _mean_units(size: float) -> float:
    """Return the mean units of writes to an item that grows evenly to ``size``."""
    most = _units(size, WRITE_BYTES)
    below = sum(range(1, most)) * WRITE_BYTES
    return (below + most * (size - (most - 1) * WRITE_BYTES)) / size
