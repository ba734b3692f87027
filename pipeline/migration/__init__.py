"""Coming over from another broker: what of a Celery app works here, and what does not."""
