"""The bridge of this service: ``python -m consumers`` runs what ``celery -A pipeline bridge`` runs."""

from pipeline.bridge import run
from pipeline.celery import app

if __name__ == "__main__":
    run(app)
