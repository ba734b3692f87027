"""The model of an author's code: stages, their annotations, the registry, the context of a running task."""
