"""The sweep: jobs that stopped moving are found, told and mended."""

from pipeline.sweep.finding import Finding
from pipeline.sweep.periodic import sweeping
from pipeline.sweep.sweep import IDLE, Sweep

__all__ = ["IDLE", "Finding", "Sweep", "sweeping"]
