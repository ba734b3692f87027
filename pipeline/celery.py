"""The Celery app that ``celery -A pipeline`` finds."""

from celery import Celery

from pipeline.settings import Settings
from pipeline.worker.installation import install


def make_app(settings: Settings | None = None) -> Celery:
    """Return an app of this project alone. ``settings``: those that count instead of the environment's."""
    made = install(Celery("pipeline"))
    if settings is not None:
        made.pipeline.settings = settings
    return made


app = make_app()
