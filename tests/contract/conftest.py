"""Fixtures of all tests here."""

from tests.environment import unchanged_environment as unchanged_environment
