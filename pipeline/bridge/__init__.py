"""The bridge: turns Kafka events into tasks on SQS. ``run`` is the whole of it, as one process."""

from pipeline.bridge.process import run

__all__ = ["run"]
