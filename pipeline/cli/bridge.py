"""``celery -A pipeline bridge``: the bridge as a Celery command."""

import os

import click

from pipeline import bridge as sending
from pipeline import inline
from pipeline.worker.installation import refuse_other_apps

# Celery imports this module, an entry point, for each of its commands.
refuse_other_apps()


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
    service = getattr(app, "pipeline", None)
    if service is not None and not service.settings.use_sqs_task_processing:
        inline.run(app, processes=concurrency)
    else:
        sending.run(app)
