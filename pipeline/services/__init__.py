"""Kafka, SQS and DynamoDB on one machine: ``embedded`` (memory only) and ``local`` (the real servers)."""
