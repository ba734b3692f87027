"""A stage and a plain task that strike every two seconds; each run writes a line to a file.

Named in TASK_MODULES, loaded by nothing else.
"""

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery, Task, current_app, shared_task

from pipeline import Tick, every, stage

#: Seconds between two ticks.
INTERVAL = 2


def write(what: str, tick: str) -> None:
    """Write a line, in one piece even if many processes write."""
    line = json.dumps({"what": what, "tick": tick}) + "\n"
    with Path(os.environ["FAULTS_EFFECTS"]).open("a") as file:
        file.write(line)


@stage(schedule=every(INTERVAL))
def strike(tick: Tick) -> None:
    """Write the moment that was due."""
    write("strike", str(int(tick.at.timestamp())))


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def chime(self: "Task") -> None:
    """Write the task's id, which is a function of the tick."""
    write("chime", self.request.id)


def _add_chime(sender: Celery, **_: Any) -> None:
    sender.add_periodic_task(INTERVAL, chime.s(), name="chime")


current_app.on_after_finalize.connect(_add_chime)
