"""The schema registry, by Confluent's API: the one door to it."""

from pipeline.registry.client import Reference, Schema, SchemaKind, SchemaRegistry
from pipeline.registry.encoder import Encoder, registry_schema, subject_of

__all__ = [
    "Encoder",
    "Reference",
    "Schema",
    "SchemaKind",
    "SchemaRegistry",
    "registry_schema",
    "subject_of",
]
