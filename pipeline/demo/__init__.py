"""The demonstration: real documents through real services, and a check of the result by a plain loop."""
