"""Chord parts: which chords a task's message belongs to, read from the JSON that Celery puts into messages.

A header task carries the whole body of its chord. Of a chain in a header only the last task does; when the
chain ends before it, those that it does not reach end with it: a chord waits for them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.jobs import ChordPart

#: A signature as JSON.
Signature = Mapping[str, Any]

#: Beside the fields of a body's signature: what tells a run of its chord from another with the same ids.
RUN: Final = "run"

#: No group has so many tasks; a larger index is not Celery's.
_MOST: int = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Membership:
    """A task's place in the header of a chord."""

    part: ChordPart
    #: The signature of the chord's body.
    body: Signature


def chord_id_of(group_id: str, body: Signature) -> str:
    """Return the id of a chord, which is that of its header's group and its run."""
    run = body.get(RUN)
    return f"{group_id}.{run}" if isinstance(run, str) else group_id


def membership(headers: Mapping[str, Any], embed: Mapping[str, Any]) -> Membership | None:
    """Return the place of a task in the chord that it is a header task of; None for another task."""
    return _membership(
        embed.get("chord"), headers.get("group"), headers.get("id"), headers.get("group_index")
    )


def abandoned(headers: Mapping[str, Any], embed: Mapping[str, Any]) -> Iterator[Membership]:
    """Yield all places that are given up with a task: its own, and those of its chain behind it."""
    own = membership(headers, embed)
    if own is not None:
        yield own
    # In Celery's protocol 1 a chain is a task that is linked to the one before.
    for signature in (*_list(embed.get("chain")), *_list(embed.get("callbacks"))):
        yield from never_run(signature)


def never_run(signature: Any, chord: Any = None) -> Iterator[Membership]:
    """Yield the places in chords that end with a signature which is never applied.

    ``chord``: of the group that it is in. Of a chord only the body counts: its header has its own.
    """
    if not isinstance(signature, Mapping):
        return
    options, kwargs = _mapping(signature.get("options")), _mapping(signature.get("kwargs"))
    chord = options.get("chord") or chord
    match signature.get("task"):
        case "celery.chain":
            for each in _list(kwargs.get("tasks")):
                yield from never_run(each)
        case "celery.group":
            for each in _list(kwargs.get("tasks")):
                yield from never_run(each, chord)
        case "celery.chord":
            yield from never_run(kwargs.get("body"), chord)
        case _:
            place = _membership(
                chord, options.get("group_id"), options.get("task_id"), options.get("group_index")
            )
            if place is not None:
                yield place
    for each in (*_list(options.get("chain")), *_list(options.get("link"))):
        yield from never_run(each)


@dataclass(frozen=True, kw_only=True)
class BodyTask:
    """A task of a chord's body, which is told if the header fails."""

    task_id: str
    task: str
    errbacks: Sequence[Signature]
    #: What is behind it, and behind the group or chord that it is in: Celery's reversed list.
    chain: Sequence[Signature]
    #: As it was published; None: as the task or the app says.
    ignore_result: bool | None


def body_tasks(body: Signature) -> list[BodyTask]:
    """Return the tasks whose results are those of a body: of a group all of them, else the last one's."""
    options, kwargs = _mapping(body.get("options")), _mapping(body.get("kwargs"))
    errbacks, chain = _list(options.get("link_error")), _list(options.get("chain"))
    if body.get("task") == "celery.group":
        found = [task for each in _list(kwargs.get("tasks")) for task in body_tasks(each)]
    elif body.get("task") == "celery.chord" and isinstance(kwargs.get("body"), Mapping):
        found = body_tasks(kwargs["body"])
    else:
        task_id, name = options.get("task_id"), str(body.get("task"))
        if name == "celery.chain" and (tasks := _list(kwargs.get("tasks"))):
            task_id = _mapping(tasks[-1].get("options")).get("task_id", task_id)
        return [
            BodyTask(
                task_id=str(task_id or ""),
                task=name,
                errbacks=errbacks,
                chain=chain,
                ignore_result=options.get("ignore_result"),
            )
        ]
    return [
        replace(
            each,
            errbacks=[*each.errbacks, *(more for more in errbacks if more not in each.errbacks)],
            chain=[*each.chain, *chain],
        )
        for each in found
    ]


def group_tasks(chain: Any) -> list[BodyTask]:
    """Return the tasks of each group in a chain that never runs, also of one that is the body of a chord."""
    found = []
    for signature in map(_mapping, _list(chain)):
        while signature.get("task") == "celery.chord":
            signature = _mapping(_mapping(signature.get("kwargs")).get("body"))
        if signature.get("task") == "celery.group":
            found += body_tasks(signature)
    return found


def _membership(chord: Any, group: Any, task_id: Any, index: Any) -> Membership | None:
    if not (isinstance(chord, Mapping) and isinstance(group, str) and isinstance(task_id, str)):
        return None
    if not (group and task_id):
        return None
    at = {"index": index} if isinstance(index, int) and 0 <= index < _MOST else {}
    return Membership(part=ChordPart(chord_id=chord_id_of(group, chord), task_id=task_id, **at), body=chord)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [] if value is None else [value]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
