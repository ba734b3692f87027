"""The pipeline as it is drawn: topics on the left, the queue they share, the stages that work it off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.monitoring.sqs import QueueReading
from pipeline.web.model import PipelineView, StageView, TopicView

#: So few that wait are traffic, not a heap.
HEAP = 100

#: Rows that one drawn queue spans at most; the style sheet has a class for each.
SPAN = 24


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One row: an event's way from its topic through a queue to a stage."""

    #: What the row begins with; None: as in the row above.
    topic: TopicView | None
    topic_span: int
    #: The name of the queue; None: the row above's spans this one.
    queue: str | None
    queue_span: int
    stage: StageView
    #: Whether another stage consumes what this one emits.
    goes_on: bool


@dataclass(frozen=True, kw_only=True)
class Heap:
    """Where most waits."""

    #: "topic" or "queue".
    kind: str
    name: str
    waiting: int


@dataclass(frozen=True, kw_only=True)
class Flow:
    """All rows, and where work piles up."""

    hops: Sequence[Hop]
    queues: Mapping[str, QueueReading]
    #: None: nothing that deserves the name waits.
    heap: Heap | None
    #: What a full bar means: the largest heap, or ``HEAP``.
    most: int
    #: From how many on something that waits is shown as a heap.
    much: int
    #: None where SQS does not tell.
    dead_letters: int | None
    #: The dead-letter queue; None where SQS does not tell.
    dlq: str | None
    waiting: int | None


def draw(view: PipelineView) -> Flow:
    """Lay a pipeline out."""
    queues = {queue.name: queue for queue in view.queues if queue.role == "tasks"}
    heaps = [Heap(kind="topic", name=topic.topic, waiting=topic.lag or 0) for topic in view.topics]
    heaps += [Heap(kind="queue", name=queue.name, waiting=waiting(queue)) for queue in queues.values()]
    largest = max(heaps, key=lambda heap: heap.waiting, default=None)
    dead = [queue for queue in view.queues if queue.role == "dlq"]
    lags = [topic.lag for topic in view.topics if topic.lag is not None]
    return Flow(
        hops=_hops(view),
        queues=queues,
        heap=largest if largest and largest.waiting >= HEAP else None,
        most=max(largest.waiting if largest else 0, HEAP),
        much=HEAP,
        dead_letters=sum(queue.depth for queue in dead) if dead else None,
        dlq=dead[0].name if dead else None,
        waiting=sum(lags) + sum(map(waiting, queues.values())) if lags or queues else None,
    )


def waiting(queue: QueueReading) -> int:
    """Tasks that nobody works on."""
    return queue.available + queue.delayed


def _hops(view: PipelineView) -> list[Hop]:
    """Stages next to those they share a queue with, then a topic."""
    topics = {topic.topic: topic for topic in view.topics}
    consumed = {stage.consumes for stage in view.stages}
    order = list(dict.fromkeys(stage.queue for stage in view.stages))
    starts = list(dict.fromkeys(stage.consumes for stage in view.stages))
    stages = sorted(view.stages, key=lambda each: (order.index(each.queue), starts.index(each.consumes)))
    hops = []
    for queue, on_queue in groupby(stages, key=lambda stage: stage.queue):
        rows = list(on_queue)
        for at, stage in enumerate(rows):
            new_block = at % SPAN == 0
            new_topic = new_block or rows[at - 1].consumes != stage.consumes
            block = rows[at : at - at % SPAN + SPAN]
            same = [each for each in block if each.consumes == stage.consumes]
            hops.append(
                Hop(
                    topic=topics.get(stage.consumes) if new_topic else None,
                    topic_span=len(same),
                    queue=queue if new_block else None,
                    queue_span=len(block),
                    stage=stage,
                    goes_on=stage.emits in consumed,
                )
            )
    return hops
