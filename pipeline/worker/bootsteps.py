"""Bootsteps of the worker: the checks before it starts, its health server, and its runtime."""

import os
import resource
from typing import Any

from celery import bootsteps

from pipeline.author.registry import REGISTRY
from pipeline.errors import ConfigurationError, ServiceError
from pipeline.infra.startchecks import check_start
from pipeline.observe.embedded import health_server
from pipeline.telemetry import tracing
from pipeline.worker.celerychecks import (
    check_open_files,
    check_pool,
    check_tasks,
    pool_name,
    report_queues,
    start_refused,
)
from pipeline.worker.celerysettings import check_celery_settings
from pipeline.worker.child.asynctasks import async_tasks, await_functions, queue_kinds
from pipeline.worker.consumer import EVENTS_EVERY, EVENTS_TOGETHER, TIMERS_EVERY, drop_cancelled_timers
from pipeline.worker.loops import LoopPool
from pipeline.worker.runtime import WorkerRuntime
from pipeline.worker.sample import ADAPT_EVERY


def loop_processes(worker: Any) -> int:
    """Return how many loop children a worker has: one for each process of its pool, if a task is async."""
    has_processes = pool_name(worker.pool_cls) == "prefork"
    return worker.min_concurrency if has_processes and async_tasks(worker.app.tasks) else 0


class Preflight(bootsteps.Step):  # type: ignore[misc]
    """Refuses to start rather than lose a task later."""

    # After its ``__init__``, which reads --autoscale; it forks when it is started.
    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        try:
            pool = pool_name(worker.pool_cls)
            check_pool(pool, REGISTRY)
            check_tasks(worker.app.tasks)
            await_functions(worker.app.tasks)
            check_celery_settings(worker.app.conf)
            takes = sorted(worker.app.amqp.queues.consume_from)
            processes = (worker.max_concurrency or worker.concurrency) if pool == "prefork" else 0
            processes += loop_processes(worker)
            check_open_files(
                resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                processes,
                len(takes),
                serves_health=worker.app.pipeline.settings.health_port is not None,
            )
            check_start(worker.app.pipeline.settings, REGISTRY, takes)
            report_queues(worker.app.pipeline.settings, REGISTRY, takes)
            # Before the pool forks.
            tracing.start(worker.app.pipeline.settings.service_name, os.environ)
        except (ConfigurationError, ServiceError) as error:
            raise start_refused(error) from error


class Loops(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs the loop children of a worker that has async tasks, beside its pool."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        worker.loops = None

    def include_if(self, worker: Any) -> bool:
        """Whether a task is async, and the pool has processes. Threads have loops of their own."""
        return loop_processes(worker) > 0

    def create(self, worker: Any) -> LoopPool:
        """Return the pool, which Celery starts."""
        settings = worker.app.pipeline.settings
        worker.loops = loops = LoopPool(
            worker.app,
            worker.hostname,
            processes=loop_processes(worker),
            runs_each=settings.async_concurrency,
            most_runs=worker.max_tasks_per_child,
            tasks=async_tasks(worker.app.tasks).keys(),
            kinds=queue_kinds(worker.app.tasks, settings.task_queue),
        )
        return loops

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Let the worker's event loop drive it."""
        worker.loops.register_with_event_loop(hub)

    def info(self, worker: Any) -> dict[str, Any]:
        """Return what ``inspect stats`` shows beside the pool's figures."""
        return {"loops": worker.loops.info()}

    def close(self, worker: Any) -> None:
        """Let it go on without the event loop, while the pool ends as well."""
        worker.loops.close()

    def stop(self, worker: Any) -> None:
        """Do nothing: what it runs ends beside the runs of the pool (``Settling.shutdown``)."""

    def terminate(self, worker: Any) -> None:
        """End what it runs soon."""
        worker.loops.terminate()


class Runtime(bootsteps.StartStopStep):  # type: ignore[misc]
    """Makes the worker's runtime. Celery's consumer starts after every other step of the worker."""

    # After the pools: their children must not inherit the runtime's threads and connections.
    requires = ("celery.worker.components:Pool", Loops)

    def start(self, worker: Any) -> None:
        """Make it: the consumer and its requests find it at ``worker.runtime``."""

        def event_sender() -> Any:
            events = worker.consumer.event_dispatcher
            return events.send if events else None

        worker.runtime = WorkerRuntime(
            worker.app.pipeline.settings,
            REGISTRY,
            node_name=worker.hostname,
            pool=pool_name(worker.pool_cls),
            event_sender=event_sender,
            loops=worker.loops,
        )


class Health(bootsteps.StartStopStep):  # type: ignore[misc]
    """Serves health on ``HEALTH_PORT``, in a daemon thread of the worker's parent process."""

    requires = (Runtime,)

    def include_if(self, worker: Any) -> bool:
        """Whether a port is set."""
        return worker.app.pipeline.settings.health_port is not None

    def create(self, worker: Any) -> Any:
        """Return the server, which Celery starts and stops."""
        return health_server(worker.app.pipeline.settings, REGISTRY, lambda: worker.runtime.source.stuck())


class Settling(bootsteps.StartStopStep):  # type: ignore[misc]
    """Keeps the runtime going from connection to connection, and closes it after the pool's last result."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Start the timers, which end with each connection."""
        consumer.runtime.watch_loop(True)
        consumer.event_dispatcher.buffer_limit = EVENTS_TOGETHER
        consumer.hub.call_repeatedly(EVENTS_EVERY, consumer.flush_events)
        consumer.hub.call_repeatedly(ADAPT_EVERY, consumer.runtime.sample.adapt)
        consumer.hub.call_repeatedly(TIMERS_EVERY, drop_cancelled_timers, consumer.hub.timer)

    def info(self, consumer: Any) -> dict[str, Any]:
        """Return what ``inspect stats`` and Flower's page of the worker show beside Celery's figures."""
        sample = consumer.runtime.sample
        shown = f"1 of {sample.one_in}" if sample.one_in > 1 else "all"
        return {"jobs_shown": shown, "events_tasks_per_second": sample.most}

    def stop(self, consumer: Any) -> None:
        """The event loop ends, at a reconnect or for good; what the pool still runs stays ours."""
        consumer.runtime.watch_loop(False)
        consumer.flush_events()

    def shutdown(self, consumer: Any) -> None:
        """Close the runtime: Celery calls this once the pool has ended."""
        if consumer.runtime.loops is not None:
            consumer.runtime.loops.join()
        consumer.runtime.close()
        tracing.stop()
