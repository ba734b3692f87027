"""Mishaps: failures of a request or its answer."""

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
    """Cut the connection before the server gets the request."""
    return None


async def lose_reply(passage: Passage) -> Answer | None:
    """Let the server act, and lose its answer."""
    await passage.forward()
    return None


def delay(seconds: float) -> Script:
    """Delay the request."""

    async def script(passage: Passage) -> Answer | None:
        await asyncio.sleep(seconds)
        return await passage.forward()

    return script


def answer_error(status: int, code: str, *, after: bool = False) -> Script:
    """Answer with an error; with ``after``, once the server has acted."""

    async def script(passage: Passage) -> Answer | None:
        if after:
            await passage.forward()
        prefix, content_type = _ERRORS[passage.server]
        body = json.dumps({"__type": prefix + code, "message": "as the fault asks"}).encode()
        return Answer(status=status, body=body, headers={"content-type": content_type})

    return script


def fail_entries(every: int) -> Script:
    """Fail every nth entry, counted over all batches; the others are done."""
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
    """Leave every nth item of BatchWriteItem requests unprocessed."""
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
    """Throttle every nth statement of BatchExecuteStatement requests."""
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
    """Refuse all handles, as if their visibility had ended a moment before."""
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
    """Let SQS accept a repeated message, as it does after five minutes."""
    request = passage.json
    for entry in request["Entries"]:
        entry["MessageDeduplicationId"] = entry["MessageDeduplicationId"][:120] + "-later"
    return await passage.forward(request)


class Hold:
    """Stops a request or its answer on the way; the test continues when one is stopped."""

    def __init__(self, *, after: bool = False, goes_on: bool = False) -> None:
        """``after``: stop the answer instead of the request. Released, it ``goes_on`` or is cut."""
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
        """Release all that are stopped, and stop no more."""
        self._let_go.set()


def skipping(count: int, script: Script) -> Script:
    """Let the first requests pass unchanged."""
    numbers: Iterator[int] = itertools.count()

    async def skip(passage: Passage) -> Answer | None:
        return await (script(passage) if next(numbers) >= count else passage.forward())

    return skip
