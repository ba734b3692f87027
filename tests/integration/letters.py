"""Stages for tests of the bridge as a process: named in TASK_MODULES, loaded by nothing else."""

from pipeline import stage


@stage(consumes="letters", emits="words", ordered=True)
def read(letter: str) -> str:
    """Read a letter; one entity's letters in their order."""
    return letter
