"""The layout of the pipeline page: topics on the left, queues in the middle, stages on the right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

from pipeline.observe.reports import QueueReading
from pipeline.web.model import PipelineView, StageView, TopicView

#: Fewer waiting events or tasks than this are traffic, not a backlog.
BACKLOG = 100

#: Maximum rows that a queue spans; the style sheet has a class for each.
SPAN = 24


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One row: from a topic through a queue to a stage."""

    #: None: the topic of the row above.
    topic: TopicView | None
    topic_span: int
    #: The name of the queue; None: that of the row above.
    queue: str | None
    queue_span: int
    stage: StageView
    #: Whether another stage consumes what this one emits.
    goes_on: bool


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """The place where most is waiting."""

    #: "topic" or "queue".
    kind: str
    name: str
    waiting: int


@dataclass(frozen=True, kw_only=True)
class Flow:
    """All rows, and the largest backlog."""

    hops: Sequence[Hop]
    queues: Mapping[str, QueueReading]
    #: None: too little is waiting.
    backlog: Backlog | None
    #: The number of a full bar: the largest backlog, or ``BACKLOG``.
    full: int
    #: The number from which a place is drawn as a backlog.
    threshold: int
    #: None when SQS does not answer.
    dead_letters: int | None
    #: The dead-letter queue; None when SQS does not answer.
    dlq: str | None
    waiting: int | None


def draw(view: PipelineView) -> Flow:
    """Return the layout of a pipeline."""
    queues = {queue.name: queue for queue in view.queues if queue.role == "tasks"}
    places = [Backlog(kind="topic", name=topic.topic, waiting=topic.lag or 0) for topic in view.topics]
    places += [Backlog(kind="queue", name=queue.name, waiting=waiting(queue)) for queue in queues.values()]
    largest = max(places, key=lambda place: place.waiting, default=None)
    dead = [queue for queue in view.queues if queue.role == "dlq"]
    lags = [topic.lag for topic in view.topics if topic.lag is not None]
    return Flow(
        hops=_hops(view),
        queues=queues,
        backlog=largest if largest and largest.waiting >= BACKLOG else None,
        full=max(largest.waiting if largest else 0, BACKLOG),
        threshold=BACKLOG,
        dead_letters=sum(queue.depth for queue in dead) if dead else None,
        dlq=dead[0].name if dead else None,
        waiting=sum(lags) + sum(map(waiting, queues.values())) if lags or queues else None,
    )


def waiting(queue: QueueReading) -> int:
    """Return the number of tasks that no worker holds."""
    return queue.available + queue.delayed


def _hops(view: PipelineView) -> list[Hop]:
    """Return the rows: neighbours of one queue share it, and neighbours of one topic within a queue."""
    topics = {topic.topic: topic for topic in view.topics}
    consumed = {stage.consumes for stage in view.stages}
    hops = []
    for queue, on_queue in groupby(_in_order(view.stages), key=lambda stage: stage.queue):
        rows = list(on_queue)
        for at, stage in enumerate(rows):
            new_block = at % SPAN == 0
            new_topic = new_block or rows[at - 1].consumes != stage.consumes
            end = at - at % SPAN + SPAN
            same = list(takewhile(lambda each: each.consumes == stage.consumes, rows[at:end]))  # noqa: B023
            hops.append(
                Hop(
                    topic=topics.get(stage.consumes) if new_topic else None,
                    topic_span=len(same),
                    queue=queue if new_block else None,
                    queue_span=len(rows[at:end]),
                    stage=stage,
                    goes_on=stage.emits in consumed,
                )
            )
    return hops


def _in_order(stages: Sequence[StageView]) -> list[StageView]:
    """Return each stage after those that feed it; of the others first those of the same queue and topic."""
    left, ordered = list(stages), list[StageView]()
    while left:
        fed = {stage.emits for stage in left}
        ready = [stage for stage in left if stage.consumes not in fed] or left
        last = ordered[-1] if ordered else ready[0]
        following = min(ready, key=lambda each: (each.queue != last.queue, each.consumes != last.consumes))
        ordered.append(following)
        left.remove(following)
    return ordered
