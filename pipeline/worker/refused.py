"""A command of Celery's that will not start: worker, bridge, Flower, ``celery inspect``."""

import click

from pipeline.errors import PipelineError, ServiceError


class StartRefused(click.ClickException):
    """The process will not start until something is changed; one line says why and what mends it."""

    exit_code = 2


class StartRefusedByService(StartRefused):
    """A service did not answer, or refused: another start may help."""

    exit_code = 1


def start_refused(error: PipelineError) -> StartRefused:
    """What to raise where this error keeps a process from starting."""
    return (StartRefusedByService if isinstance(error, ServiceError) else StartRefused)(str(error))
