"""An app of Celery with a beat_schedule, and a stage with a schedule: loaded by its own processes only."""

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery

import pipeline
from pipeline import Tick, current_task, every, stage


def write(what: str, **fields: Any) -> None:
    """Write a line, in one piece even if many processes write."""
    with Path(os.environ["CLOCKS_LOG"]).open("a") as file:
        file.write(json.dumps({"what": what, **fields}) + "\n")


app = Celery("clocks")
app.conf.beat_schedule = {
    "clean up": {"task": "clocks.clean", "schedule": 2.0, "args": ("cellar",), "options": {"expires": 60}}
}
pipeline.install(app)


@app.task(name="clocks.clean", bind=True)  # type: ignore[untyped-decorator]
def clean(self: Any, room: str) -> None:
    """A plain task of beat_schedule."""
    write("clean", room=room, id=self.request.id)


if "CLOCKS_PLAIN" not in os.environ:

    @stage(schedule=every(2), schedule_data=lambda tick: tick, ordered=True)
    def wind_clock(tick: Tick) -> str:
        """A stage with a schedule."""
        task = current_task()
        assert task is not None
        write("wind", at=tick.at.timestamp(), entity=task.entity_id, job=task.job_id)
        return tick.schedule
