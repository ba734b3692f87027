"""The peers that are measured, one file each: ``ours`` and the alternatives."""
