"""Stock, whole jobs: Celery's canvas with kombu's SQS transport on the same FIFO queue.

A chord needs a result backend: Redis, Celery's fastest, on a redis-server as far away as SQS. Each task is in
a group of its own; by default all tasks of a FIFO queue are in one, and run one after the other.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from benchmarks.fill import send_all
from benchmarks.ground import Ground
from benchmarks.peer import Flow, Shape
from benchmarks.peers import canvas, redis, stock

name = stock.name


def missing() -> str | None:
    """Return the missing requirement."""
    return stock.missing() or redis.missing()


@contextmanager
def flowing(ground: Ground, shape: Shape) -> Iterator[Flow]:
    """Send the first message of each chain."""

    def submit(jobs: int) -> None:
        queue = ground.settings.task_queue
        send_all(
            ground.queue,
            [stock.outgoing(canvas.message(queue, shape.chain, number)) for number in range(jobs)],
        )

    def environment(urls: Mapping[str, str]) -> dict[str, str]:
        moved = ground.environment_through({"sqs": urls["sqs"]})
        return {**moved, stock.RESULTS_URL: f"redis://{urlsplit(urls['redis']).netloc}/0"}

    with redis.run_redis() as port:
        yield Flow(
            commands={"worker": stock.WORKER},
            servers={"sqs": ground.servers["sqs"], "redis": f"redis://127.0.0.1:{port}/0"},
            environment=environment,
            submit=submit,
            task_done=canvas.TASK_DONE,
            job_done=canvas.job_done(shape.chain),
        )
