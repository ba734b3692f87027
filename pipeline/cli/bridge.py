"""``celery -A pipeline bridge``: the bridge as a Celery command."""

import os

import click

from pipeline import bridge as sending
from pipeline import inline
from pipeline.settings import Settings


@click.command()
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="one for each CPU",
    help="Processes that run stages while USE_SQS_TASK_PROCESSING=false.",
)
@click.pass_context
def bridge(context: click.Context, concurrency: int) -> None:
    """Turn Kafka events into tasks on SQS, until stopped by SIGTERM or Ctrl-C.

    Start as many as there are partitions at most; each takes its share. With USE_SQS_TASK_PROCESSING=false it
    runs the stages itself.
    """
    app = context.obj.app
    settings = getattr(app, "settings", None)
    if isinstance(settings, Settings) and not settings.use_sqs_task_processing:
        inline.run(app, processes=concurrency)
    else:
        sending.run(app)
