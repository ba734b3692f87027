"""Observation of a service: reports of its dependencies, queues and stages, and the HTTP endpoints."""
