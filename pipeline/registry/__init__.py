"""The schema registry, by Confluent's API: the one door to it."""

from pipeline.registry.client import Reference, Schema, SchemaKind, SchemaRegistry

__all__ = ["Reference", "Schema", "SchemaKind", "SchemaRegistry"]
