"""The kombu transport ``fifo://``: tasks over SQS FIFO queues, in lanes, under leases."""
