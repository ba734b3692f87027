"""A command of Celery's that will not start: worker, bridge, Flower, ``celery inspect``."""

import click

from pipeline.errors import PipelineError, ServiceError


class StartRefused(click.ClickException):
    """The process will not start; one line says why and what mends it.

    Exit code 1 where a service did not answer or refused, so that another start may help; else 2.
    """

    def __init__(self, error: PipelineError) -> None:
        super().__init__(str(error))
        self.exit_code = 1 if isinstance(error, ServiceError) else 2
