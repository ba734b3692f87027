"""Throttled requests to DynamoDB, counted by operation and by the limit that was reached.

botocore tries a throttled request again, so that most of them never become an error: they are counted at each
try, and in the answers to batches, which name what was throttled in them.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.telemetry import metrics

#: Codes of a throttled request ("Error handling with DynamoDB", developer guide), and of a throttled
#: statement of a batch (BatchStatementError, API reference).
_REQUEST_CODES = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
    }
)
_STATEMENT_CODES = frozenset({"ProvisionedThroughputExceeded", "RequestLimitExceeded", "ThrottlingError"})

#: The event of botocore and of lean calls after each try that may be made again.
_TRY = "needs-retry.dynamodb"

#: The reason of writes that a batch left undone; DynamoDB tells no other.
_UNPROCESSED = "unprocessed"


def watch(client: Any) -> None:
    """Count the throttled tries of all requests of a botocore client, or of a lean one."""
    client.meta.events.register(_TRY, _count_try)


def count_statements(answers: list[dict[str, Any]]) -> None:
    """Count the throttled statements in the answer to a BatchExecuteStatement."""
    for answer in answers:
        code = answer.get("Error", {}).get("Code", "")
        if code in _STATEMENT_CODES:
            _count("BatchExecuteStatement", code)


def count_unprocessed(items: Mapping[str, Any]) -> None:
    """Count a BatchWriteItem that wrote a part of its items.

    A BatchGetItem that reads a part is not counted: an answer of more than 16 MB does that, too. Where
    nothing could be read for throttling, DynamoDB answers with an error, which counts.
    """
    if items:
        _count("BatchWriteItem", _UNPROCESSED)


def _count_try(operation: Any, response: tuple[Any, Mapping[str, Any]] | None, **_: Any) -> None:
    """Count a throttled try; botocore decides about the next one, as None is no decision."""
    answer = response[1] if response else {}
    code = answer.get("Error", {}).get("Code", "")
    if code in _REQUEST_CODES:
        # Two exceptions spell the field as they do.
        reasons = answer.get("ThrottlingReasons") or answer.get("throttlingReasons") or ()
        for reason in {each.get("reason", code) for each in reasons} or {code}:
            _count(operation.name, reason)


def _count(operation: str, reason: str) -> None:
    metrics.THROTTLED.labels(operation, reason).inc()
