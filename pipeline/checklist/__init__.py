"""The production checklist, executed against the settings and the services of a deployment."""

from pipeline.checklist.facts import Facts, settings_to_check
from pipeline.checklist.line import Line, Status
from pipeline.checklist.run import run_checklist

__all__ = ["Facts", "Line", "Status", "run_checklist", "settings_to_check"]
