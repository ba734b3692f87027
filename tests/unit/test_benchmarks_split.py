"""The split benchmark's check of a complete job."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.split import End, flaws

WHOLE = End(parts=3, done=3, gathered=[5], expected=5, completions=1, runs=3, left=0, dead=0)


def test_a_job_whose_parts_all_counted_once_is_whole() -> None:
    """Every part ran and counted once, one gather saw them all, one event says so, and nothing is left."""
    assert flaws(WHOLE) == []


@pytest.mark.parametrize(
    ("seen", "flaw"),
    [
        ({"done": 2}, "parts done: 2, not 3"),
        ({"runs": 4}, "runs of parts: 4, not 3"),
        ({"gathered": [4]}, "gathered: [4], not [5]"),
        ({"gathered": [5, 5]}, "gathered: [5, 5], not [5]"),
        ({"completions": 2}, "job-complete events: 2, not 1"),
        ({"left": 1}, "tasks left: 1, not 0"),
        ({"dead": 1}, "dead letters: 1, not 0"),
    ],
)
def test_a_job_with_a_flaw_gives_no_figures(seen: dict[str, Any], flaw: str) -> None:
    """Lost, repeated, misordered or leftover parts are reported, with the expected value."""
    assert flaws(replace(WHOLE, **seen)) == [flaw]
