"""The production checklist, executed: each line against what is configured and what the services answer."""

from pipeline.checklist.facts import Facts, checked_settings
from pipeline.checklist.line import Line, Status
from pipeline.checklist.run import run_checklist

__all__ = ["Facts", "Line", "Status", "checked_settings", "run_checklist"]
