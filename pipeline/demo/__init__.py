"""The demo: an example pipeline on real documents, checked against a plain loop."""
