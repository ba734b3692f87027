"""Mishaps: what can happen to a request and its answer on the way."""

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator

from tests.faults.wire import Answer, Passage, Script

#: The namespace of each server's errors, and the type of its content.
_ERRORS = {
    "sqs": ("com.amazonaws.sqs#", "application/x-amz-json-1.0"),
    "dynamodb": ("com.amazonaws.dynamodb.v20120810#", "application/x-amz-json-1.0"),
}


async def refuse(_: Passage) -> Answer | None:
    """The connection is cut before the server hears of the request."""
    return None


async def lose_reply(passage: Passage) -> Answer | None:
    """The server does it, and nobody hears so."""
    await passage.forward()
    return None


def delay(seconds: float) -> Script:
    """The request arrives late."""

    async def script(passage: Passage) -> Answer | None:
        await asyncio.sleep(seconds)
        return await passage.forward()

    return script


def answer_error(status: int, code: str, *, after: bool = False) -> Script:
    """The server answers with an error; ``after`` it did what was asked all the same."""

    async def script(passage: Passage) -> Answer | None:
        if after:
            await passage.forward()
        prefix, content_type = _ERRORS[passage.server]
        body = json.dumps({"__type": prefix + code, "message": "as the fault asks"}).encode()
        return Answer(status=status, body=body, headers={"content-type": content_type})

    return script


def fail_entries(every: int) -> Script:
    """Of the entries of a batch, counted over all batches, each so-manieth fails; the others are done."""
    numbers = itertools.count(1)

    async def script(passage: Passage) -> Answer | None:
        request = passage.json
        bad = [entry for entry in request["Entries"] if next(numbers) % every == 0]
        good = [entry for entry in request["Entries"] if entry not in bad]
        answer = Answer(status=200, body=b'{"Successful": []}')
        if good:
            answer = await passage.forward(request | {"Entries": good})
        failed = [
            {"Id": entry["Id"], "Code": "InternalError", "Message": "as the fault asks", "SenderFault": False}
            for entry in bad
        ]
        content = answer.json
        return answer.with_json(content | {"Failed": content.get("Failed", []) + failed})

    return script


def leave_unprocessed(every: int) -> Script:
    """Of the items of a BatchWriteItem each so-manieth is left for later."""
    numbers = itertools.count(1)

    async def script(passage: Passage) -> Answer | None:
        request = passage.json
        kept, left = {}, {}
        for table, items in request["RequestItems"].items():
            left[table] = [item for item in items if next(numbers) % every == 0]
            kept[table] = [item for item in items if item not in left[table]]
        answer = Answer(status=200, body=b'{"UnprocessedItems": {}}')
        if any(kept.values()):
            kept = {table: items for table, items in kept.items() if items}
            answer = await passage.forward(request | {"RequestItems": kept})
        left = {table: items for table, items in left.items() if items}
        return answer.with_json(answer.json | {"UnprocessedItems": left})

    return script


def fail_statements(every: int) -> Script:
    """Of the statements of a BatchExecuteStatement each so-manieth is throttled."""
    numbers = itertools.count(1)

    async def script(passage: Passage) -> Answer | None:
        request = passage.json
        chosen = [next(numbers) % every == 0 for _ in request["Statements"]]
        good = [each for each, bad in zip(request["Statements"], chosen, strict=True) if not bad]
        answer = Answer(status=200, body=b'{"Responses": []}')
        if good:
            answer = await passage.forward(request | {"Statements": good})
        answered = iter(answer.json["Responses"])
        throttled = {"Error": {"Code": "ThrottlingError", "Message": "as the fault asks"}}
        return answer.with_json({"Responses": [throttled if bad else next(answered) for bad in chosen]})

    return script


async def expire_handles(passage: Passage) -> Answer | None:
    """None of the handles is good any longer, as when their visibility ended a moment before."""
    failed = [
        {
            "Id": entry["Id"],
            "Code": "ReceiptHandleIsInvalid",
            "Message": "The receipt handle has expired",
            "SenderFault": True,
        }
        for entry in passage.json["Entries"]
    ]
    return Answer(status=200, body=json.dumps({"Failed": failed}).encode())


async def forget_duplicates(passage: Passage) -> Answer | None:
    """SQS takes a message that it took before: what it does once five minutes have passed."""
    request = passage.json
    for entry in request["Entries"]:
        entry["MessageDeduplicationId"] = entry["MessageDeduplicationId"][:120] + "-later"
    return await passage.forward(request)


class Hold:
    """Stops a request on its way, or its answer; the test goes on when one is stopped."""

    def __init__(self, *, after: bool = False, goes_on: bool = False) -> None:
        """``after``: the server did it, and the answer is stopped. Let go, it ``goes_on`` or is cut."""
        self._after = after
        self._goes_on = goes_on
        self._reached = threading.Event()
        self._let_go = threading.Event()

    async def __call__(self, passage: Passage) -> Answer | None:
        """The script."""
        answer = await passage.forward() if self._after else None
        self._reached.set()
        while not self._let_go.is_set():
            await asyncio.sleep(0.02)
        if not self._goes_on:
            return None
        return answer if self._after else await passage.forward()

    def wait(self, timeout: float = 60) -> None:
        """Wait until a request is stopped."""
        assert self._reached.wait(timeout), f"nothing came by within {timeout:g} s"

    def let_go(self) -> None:
        """Let all go that are stopped, and stop none that comes later."""
        self._let_go.set()


def skipping(count: int, script: Script) -> Script:
    """The first so many pass untouched."""
    numbers: Iterator[int] = itertools.count()

    async def skip(passage: Passage) -> Answer | None:
        return await (script(passage) if next(numbers) >= count else passage.forward())

    return skip
