"""The worker's step that serves health on ``HEALTH_PORT``."""

from typing import Any

from celery import bootsteps

from pipeline.health.embedded import health_server
from pipeline.registry import REGISTRY
from pipeline.transport.inbound import stuck


class Health(bootsteps.StartStopStep):  # type: ignore[misc]
    """A daemon thread of the worker's parent process, while the worker runs."""

    # After the pool: what a child inherits it does not need to close.
    requires = ("celery.worker.components:Pool",)

    def include_if(self, worker: Any) -> bool:
        """Only where a port is set."""
        return worker.app.settings.health_port is not None

    def create(self, worker: Any) -> Any:
        """What Celery starts and stops; None leaves the step out."""
        return health_server(worker.app.settings, REGISTRY, stuck)
