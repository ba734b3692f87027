"""A bridge that runs stages itself, as a process."""

import os
import threading
from typing import TYPE_CHECKING

from pipeline.author.registry import REGISTRY
from pipeline.bridge.bridge import Bridge
from pipeline.bridge.knownplans import KnownPlans
from pipeline.bridge.process import checked, run_process
from pipeline.bridge.pulse import Pulse
from pipeline.inline.children import Children
from pipeline.inline.delivery import InlineDelivery
from pipeline.schedules.firing import firing_schedules
from pipeline.settings import Settings

if TYPE_CHECKING:
    from celery import Celery


def run(app: "Celery", *, processes: int | None = None, stop: threading.Event | None = None) -> None:
    """Run the stages of events in child processes until the process is told to stop; nothing goes to SQS.

    ``processes``: how many stages run at a time, by default one for each CPU. ``stop`` and the end of the
    process as for ``pipeline.bridge.run``. An event is committed only when nothing is left of it, so no sweep
    is needed.
    """

    def run_stages(settings: Settings, stop: threading.Event) -> None:
        # Forked before this process has threads.
        children = Children(app, processes or os.cpu_count() or 1)
        children.start()
        try:
            pulse = Pulse()
            with checked(settings, pulse), firing_schedules(settings, REGISTRY, app):
                # It can run the stages of its own code only, so it follows no other deployment.
                plans = KnownPlans(REGISTRY.routes)
                delivery = InlineDelivery.make(settings, REGISTRY, children, plans)
                consumers = REGISTRY.consumers.values()
                Bridge(settings, plans, plans.topics, delivery, pulse, consumers).run(stop)
        finally:
            children.end()

    run_process(app, run_stages, stop)
