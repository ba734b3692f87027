"""Faults of chords: workers killed with kill -9, copies of messages, lost replies: none hangs or doubles."""

import itertools
import json
import random
import time
import uuid
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from celery import chord

from pipeline.settings import load_settings
from pipeline.sqs import SqsQueue, sqs_client
from pipeline.transport.publishing import gathering
from tests.faults.chordtasks import body, errback, header
from tests.faults.mishaps import Hold, lose_reply
from tests.faults.wire import Answer, Passage, Script
from tests.faults.world import World

#: Every so many chords have a header task that fails.
DOOMED = 10
#: Every so many messages of header tasks are there twice.
COPIED = 4


@dataclass
class Chords:
    """Chords that were published, and the lines that their tasks wrote."""

    world: World
    path: Path

    def __post_init__(self) -> None:
        # Not before: it makes an app the current one, which other modules of tasks configure.
        from pipeline.celery import make_app

        self.settings = load_settings(self.world.environment)
        make_app(self.settings).set_current()
        self.queue = SqsQueue(sqs_client(self.settings), self.settings.sqs_task_queue_url)
        self.sizes: list[int] = []

    def publish(self, size: int, *, seconds: float = 0.0, copied: bool = False) -> None:
        """Publish a chord; ``copied``: some messages twice, as after SQS forgot their ids."""
        key = len(self.sizes)
        doomed = key % DOOMED == DOOMED - 1
        self.sizes.append(size)
        tasks = [header.s(n, seconds, doomed=doomed and n == 0) for n in range(size)]
        args = str(self.path), key
        canvas = chord(tasks, body.s(*args).on_error(errback.s(*args)))
        with gathering() as queued:
            canvas.apply_async()
        messages = [message for _, message in queued]
        if copied:
            messages += [
                replace(message, deduplication_id=uuid.uuid4().hex) for message in messages[::COPIED]
            ]
        errors = self.queue.send(messages)
        assert not any(errors), errors

    def lines(self) -> list[dict[str, Any]]:
        """Return what was written so far."""
        if not self.path.exists():
            return []
        return [
            json.loads(line) for line in self.path.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]

    def ended(self) -> int:
        """Return how many chords ended."""
        return len({line["key"] for line in self.lines()})

    def wait(self) -> None:
        """Wait until all chords ended and nothing is on the queue; fail if none ended for too long."""
        ended, deadline = -1, 0.0
        while (now := self.ended()) < len(self.sizes):
            if now != ended:
                ended, deadline = now, time.monotonic() + self.world.scale.quiet
            assert time.monotonic() < deadline, self.stuck() + self.world.log_tail()
            time.sleep(0.2)
        self.world.wait(lambda: self.world.observer.depth()[0] == 0, "nothing is on the queue")

    def stuck(self) -> str:
        """Return which chords did not end."""
        ended = {line["key"] for line in self.lines()}
        left = [key for key in range(len(self.sizes)) if key not in ended]
        return f"{len(left)} of {len(self.sizes)} chords are stuck: {left[:20]}\n"

    def verify(self) -> None:
        """Each chord ended once, as it must, with all its results.

        The task of a body or errback may run again if its own message is redelivered.
        """
        lines = self.lines()
        first = Counter(line["key"] for line in lines if not line["redelivered"])
        doubled = [key for key, count in first.items() if count > 1]
        assert doubled == [], f"{len(doubled)} of {len(self.sizes)} chords are doubled: {doubled[:20]}"
        for line in lines:
            key = line["key"]
            if key % DOOMED == DOOMED - 1:
                assert (line["what"], line.get("error")) == ("errback", "ChordError"), line
            else:
                assert (line["what"], line.get("results")) == ("body", list(range(self.sizes[key]))), line


@pytest.fixture(name="chords")
def chords_fixture(world: World, tmp_path: Path) -> Chords:
    """No chord yet, beside the usual load of stages."""
    world.load.send()
    return Chords(world, tmp_path / "lines")


def now_and_then(every: int, script: Script) -> Script:
    """Apply a script to every so many requests."""
    numbers = itertools.count(1)

    async def script_of_some(passage: Passage) -> Answer | None:
        return await (script(passage) if next(numbers) % every == 0 else passage.forward())

    return script_of_some


def test_kills_copies_and_lost_replies(world: World, chords: Chords) -> None:
    """All at once, while chords of one to nine header tasks run: 0 stuck, 0 doubled."""
    chance = random.Random(19)
    with ExitStack() as faults:
        for every, actions in (
            (7, ("UpdateItem",)),
            (9, ("BatchExecuteStatement",)),
            (11, ("SendMessageBatch",)),
            (5, ("DeleteMessageBatch",)),
        ):
            faults.enter_context(world.wire.rule(now_and_then(every, lose_reply), *actions, client="worker"))
        for number in range(world.scale.chords):
            chords.publish(number % 9 + 1, seconds=chance.uniform(0, 0.02), copied=True)
            if number % (world.scale.chords // world.scale.kills) == 0:
                world.kill(world.worker)
                world.start("worker")
        for _ in range(world.scale.kills):
            if chords.ended() == len(chords.sizes):
                break
            world.pass_time(chance.uniform(1, 4))
            world.kill(world.worker)
            world.start("worker")
        chords.wait()
    chords.verify()
    world.verify(runs=99)


@pytest.mark.parametrize(
    ("actions", "holding", "after"),
    [
        pytest.param(("BatchExecuteStatement",), "H#", True, id="ends written, not counted"),
        pytest.param(("UpdateItem",), "leaves", True, id="counted, unheard"),
        pytest.param(("UpdateItem",), "ended", True, id="decided, not published"),
        pytest.param(("SendMessageBatch",), "faults.body", False, id="not sent"),
        pytest.param(("SendMessageBatch",), "faults.body", True, id="sent, unheard"),
        pytest.param(("UpdateItem",), "closed_at", False, id="published, not closed"),
        pytest.param(("DeleteMessageBatch",), "", False, id="closed, not deleted"),
    ],
)
def test_between_the_steps_of_a_chord(
    world: World, chords: Chords, actions: tuple[str, ...], holding: str, after: bool
) -> None:
    """The worker that completes a header is killed between two of its steps; the next one goes on."""
    world.settle()
    for worker in world.of("worker"):
        world.stop(worker)
    victim = world.start("worker", client="victim")
    world.wait(lambda: victim.at_work, "at work")
    hold = Hold(after=after)
    with world.wire.rule(hold, *actions, client="victim", holding=holding):
        chords.publish(3)
        hold.wait()
        world.kill(victim)
        hold.let_go()
    world.ready()
    chords.wait()
    chords.verify()
    assert len(chords.lines()) == 1
    world.verify()
