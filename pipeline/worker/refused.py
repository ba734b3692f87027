"""A command of Celery's that will not start: worker, bridge, Flower, ``celery inspect``."""

import click


class StartRefused(click.ClickException):
    """The process will not start; one line says why and what mends it."""

    exit_code = 2
