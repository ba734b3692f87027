"""Stages without SQS: a bridge that runs the stages of its events in child processes of its own."""

from pipeline.inline.process import run

__all__ = ["run"]
