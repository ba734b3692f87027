"""The app of the suite's ``celery`` commands, which name none."""

import os

from celery import Celery

import pipeline

app = Celery("suite")
if "CELERY_CONFIG_MODULE" in os.environ:  # --config: that of a test names another broker
    app.config_from_envvar("CELERY_CONFIG_MODULE")
else:
    pipeline.install(app)
