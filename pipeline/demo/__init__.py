"""The demonstration: real documents, real services, and a check of the result."""
