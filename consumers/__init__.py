"""The Kafka side of this service: its bridge, and how topics of other producers become its events.

A topic whose records are JSON with the entity as the key needs no code here: a stage consumes it directly.
"""
