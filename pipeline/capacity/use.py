"""The use of a rate of jobs: requests, units, bytes and CPU a second."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.capacity import measured
from pipeline.capacity.costs import ENTITY_WRITES, Step, steps_of
from pipeline.capacity.shape import Shape

#: Bytes of a request to SQS that are billed as one request.
BILLED_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class Use:
    """The use of a mix of jobs, a second."""

    tasks: float
    jobs: float
    #: Tasks that run at one moment.
    running: float
    #: Events of stages' topics; first events, and those of the busiest kind of job.
    events: float
    first_events: float
    busiest_first_events: float
    #: Requests to AWS by operation; those to SQS as they are billed.
    requests: Mapping[str, float]
    billed_requests: float
    #: DynamoDB's units: of writes to the table, of writes to its index, of reads.
    writes: float
    index_writes: float
    #: The same of writes to the index by entity; 0 without it.
    entity_writes: float
    reads: float
    #: Bytes: of events, of tasks' messages; and those that stay in DynamoDB.
    event_bytes: float
    message_bytes: float
    stored_bytes: float
    #: Seconds of CPU: of workers' parent processes, and of all processes without the tasks' own.
    parent_cpu: float
    cpu: float


def use_of(rate: float, mix: Sequence[Shape], *, by_entity: bool) -> Use:
    """Return what ``rate`` tasks a second of a mix take; ``by_entity``: with the index by entity."""
    share = rate / sum(shape.share * shape.tasks for shape in mix)
    flow = [(shape.share * share, shape) for shape in mix]

    def total(of: Callable[[Shape], float]) -> float:
        return sum(number * of(shape) for number, shape in flow)

    def of_steps(of: Callable[[Step], float]) -> float:
        return total(lambda shape: sum(map(of, steps_among_many(shape))))

    requests: defaultdict[str, float] = defaultdict(float)
    for number, shape in flow:
        for operation, each in requests_of(shape).items():
            requests[operation] += number * each
    return Use(
        tasks=rate,
        jobs=total(_is_job),
        running=total(lambda shape: shape.tasks * shape.run),
        events=total(lambda shape: shape.stages),
        first_events=total(_is_job),
        busiest_first_events=max(number * _is_job(shape) for number, shape in flow),
        requests=dict(sorted(requests.items())),
        billed_requests=total(billed_requests),
        writes=of_steps(lambda step: step.writes),
        index_writes=of_steps(lambda step: step.index_writes),
        entity_writes=total(_is_job) * ENTITY_WRITES * by_entity,
        reads=of_steps(lambda step: step.reads),
        event_bytes=total(lambda shape: shape.stages * (measured.EVENT_BYTES + shape.size)),
        message_bytes=total(_message_bytes),
        stored_bytes=of_steps(lambda step: step.stored),
        parent_cpu=total(parent_ms) / 1000,
        cpu=total(cpu_ms) / 1000,
    )


def steps_among_many(shape: Shape) -> tuple[Step, ...]:
    """Return the steps of one job among many, whose parts end together now and then."""
    return steps_of(shape, leaf_writes=measured.LEAF_WRITES.value * shape.parts)


def requests_of(shape: Shape) -> dict[str, float]:
    """Return the requests by operation of one job among many."""
    found = {"ReceiveMessage": shape.tasks / measured.TOGETHER["ReceiveMessage"]}
    for step in steps_among_many(shape):
        found[step.operation] = found.get(step.operation, 0) + _requests(step)
    return found


def billed_requests(shape: Shape) -> float:
    """Return the requests to SQS of one job among many, as they are billed."""
    requests = requests_of(shape)
    carried = _message_bytes(shape) / BILLED_BYTES
    return (
        max(requests["SendMessageBatch"], carried)
        + max(requests["ReceiveMessage"], carried)
        + requests["DeleteMessageBatch"]
    )


def parent_ms(shape: Shape) -> float:
    """Return the CPU of workers' parent processes for one job among many."""
    own = sum(_requests(step) for step in steps_among_many(shape) if _is_own(step))
    return shape.tasks * measured.TASK_MS.value + own * measured.REQUEST_MS.value


def cpu_ms(shape: Shape) -> float:
    """Return the CPU of all processes for one job among many, without that of its functions."""
    first = _is_job(shape)
    bridge = first * measured.FIRST_EVENT_MS.value + (shape.stages - first) * measured.EVENT_MS.value
    return parent_ms(shape) + shape.tasks * measured.CHILD_MS.value + bridge


def _requests(step: Step) -> float:
    """Return the requests of a step of one job among many."""
    shared = step.entries / measured.TOGETHER.get(step.operation, 1)
    return min(step.requests, shared) if step.is_shared else step.requests


def _message_bytes(shape: Shape) -> float:
    return shape.tasks * (measured.MESSAGE_BYTES + shape.size)


def _is_own(step: Step) -> bool:
    """Whether tasks share few or none of its requests."""
    return measured.TOGETHER.get(step.operation, 1) < 2


def _is_job(shape: Shape) -> int:
    return 0 if shape.is_plain else 1
