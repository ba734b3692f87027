"""Whole jobs as Celery's canvas has them: a chain, one task of which replaces itself by a chord."""

import base64
import json
import uuid
from collections.abc import Sequence
from typing import Any

from celery import Celery, Task, chord

from benchmarks.stages import FLOW_PARTS

#: Texts in the worker's log line of a finished task.
TASK_DONE = (b" succeeded in ",)


def job_done(chain: Sequence[str]) -> tuple[bytes, ...]:
    """Return the texts in the log line of a chain's last task."""
    return (b"Task %s[" % chain[-1].encode(), *TASK_DONE)


def add_tasks(app: Celery) -> None:
    """Give an app the tasks of both chains.

    Without results, except those that are needed: of the parts for their chord, of the last for the caller.
    """

    @app.task(name="begin", shared=False)  # type: ignore[untyped-decorator]
    def begin(number: int) -> int:
        return number

    @app.task(name="middle", shared=False)  # type: ignore[untyped-decorator]
    def middle(number: int) -> int:
        return number

    @app.task(name="split", bind=True, shared=False)  # type: ignore[untyped-decorator]
    def split(self: Task, _number: int) -> Any:
        return self.replace(chord([part.s(number) for number in range(FLOW_PARTS)], join.s()))

    @app.task(name="part", ignore_result=False, shared=False)  # type: ignore[untyped-decorator]
    def part(number: int) -> int:
        return number

    @app.task(name="join", shared=False)  # type: ignore[untyped-decorator]
    def join(parts: Sequence[int]) -> int:
        return sum(parts)

    @app.task(name="finish", ignore_result=False, shared=False)  # type: ignore[untyped-decorator]
    def finish(_total: int) -> None:
        pass


def message(queue: str, chain: Sequence[str], number: int) -> dict[str, Any]:
    """Return the message of a chain's first task, as ``apply_async`` writes it."""
    task_id = str(uuid.uuid4())
    # The next task of a chain is the last of this list.
    rest = [_signature(name) for name in reversed(chain[1:])]
    embed = {"callbacks": None, "errbacks": None, "chain": rest or None, "chord": None}
    headers = {
        "lang": "py",
        "task": chain[0],
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "shadow": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": f"({number},)",
        "kwargsrepr": "{}",
        "origin": "benchmark",
        "ignore_result": True,
    }
    return {
        "body": base64_of(json.dumps([[number], {}, embed])),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


def base64_of(text: str) -> str:
    """Return a text as kombu packs it."""
    return base64.b64encode(text.encode()).decode()


def _signature(name: str) -> dict[str, Any]:
    return {
        "task": name,
        "args": [],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
