"""Benchmarks of the worker and the bridge against their peers: ``python -m benchmarks --help``."""
