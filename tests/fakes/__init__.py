"""Fakes of the wires that the doors speak on: never of our own logic."""
