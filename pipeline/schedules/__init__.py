"""Schedules: the bridge that has the turn fires the ticks of stages and of Celery's ``beat_schedule``."""
