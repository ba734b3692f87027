"""Marks of faults."""

import pytest

#: Takes minutes, or proves the same as a quicker one: only ``python -m tests.faults --long`` runs it.
long_only = pytest.mark.long_only
