"""The schema registry, by Confluent's API: the one door to it."""

from pipeline.registry.client import Reference, Schema, SchemaKind, SchemaRegistry
from pipeline.registry.encoder import Encoder, Written, registry_schema, subject_of

__all__ = [
    "Encoder",
    "Reference",
    "Schema",
    "SchemaKind",
    "SchemaRegistry",
    "Written",
    "registry_schema",
    "subject_of",
]
