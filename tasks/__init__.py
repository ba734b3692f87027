"""The stages of this service: an order is priced, then its bill is mailed. A fork puts its own here.

``TASK_MODULES`` names this package by default. ``tests/unit/test_orders.py`` has its unit tests.
"""
