"""Celery's control plane over Kafka: task events, inspect and remote control."""
