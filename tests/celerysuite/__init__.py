"""Celery's own integration suite against ``fifo://``: ``python -m tests.celerysuite``."""
