"""Formats that outlive the code: events, task messages, dead letters, error events, plans and ids. No I/O."""
