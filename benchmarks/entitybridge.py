"""A bridge whose limit of a queue's depth is its argument, so that a small run reaches it."""

import sys

from pipeline.bridge import queuedepths, run
from pipeline.celery import app

if __name__ == "__main__":
    queuedepths.MAX_DEPTH = int(sys.argv[1])
    run(app)
