"""``celery beat`` beside bridges that fire the same entries: each tick would be sent twice."""

import time
from typing import Any

import click
import structlog

from pipeline.errors import PipelineError
from pipeline.jobs import BEAT_PREFIX

log = structlog.get_logger(__name__)


def refuse_second_beat(sender: Any, **_: Any) -> None:
    """End a ``celery beat`` that starts while a bridge of its service fires entries of ``beat_schedule``.

    A beat whose table does not answer starts: it needs none.
    """
    service = getattr(sender.app, "pipeline", None)
    if service is None or not service.settings.fires_beat:
        return
    try:
        holder = service.job_store.schedules.holder()
    except PipelineError as error:
        log.warning("beat.unchecked", error=str(error))
        return
    entries = sorted(name for name in holder.names if name.startswith(BEAT_PREFIX))
    if entries and holder.until > time.time():
        click.echo(
            f"Error: A bridge of this service fires beat_schedule ({', '.join(entries)}): celery beat would "
            "send each task a second time. Set BRIDGE_BEAT=false for the bridges, or leave celery beat out.",
            err=True,
        )
        # Celery goes on after an exception of a receiver.
        raise SystemExit(2)
