"""The kombu transport ``fifo://``: tasks over SQS FIFO queues, in lanes, under leases."""

from pipeline.transport.bulk import Published, publish_many

__all__ = ["Published", "publish_many"]
