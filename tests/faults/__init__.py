"""Faults: tests of the promises that break each thing that can break while real work goes through.

``load.py`` is what goes in, ``outcome.py`` what came out, ``verifier.py`` what must hold between the two.
None of the three knows the engine. Each ``test_*.py`` breaks something; ``python -m tests.faults --long``
does the same with thousands of events.
"""
