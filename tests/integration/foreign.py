"""Stages for tests of topics of others: named in TASK_MODULES, loaded by nothing else."""

import os
from pathlib import Path

from pipeline import current_task, stage


@stage(consumes="amounts", emits="booked", ordered=True)
def book(amount: int) -> int:
    """Double an amount."""
    return 2 * amount


@stage(consumes="booked", ordered=True)
def note(amount: int) -> None:
    """Write the amount into the file of its entity."""
    task = current_task()
    assert task is not None
    with Path(os.environ["NOTES"], task.entity_id).open("a") as file:
        file.write(f"{amount}\n")
