"""The Kafka side of this service: how topics of others become its events, and its bridge.

Each module here may define consumers (``@consumer``); all are loaded beside ``tasks``. A topic whose records
are JSON events with the entity as the key needs none: a stage consumes it directly.
"""
