"""Kafka, SQS and DynamoDB on one machine: ``embedded`` (in memory) and ``local`` (servers)."""
