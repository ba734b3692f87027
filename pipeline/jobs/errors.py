"""Errors of DynamoDB, converted to a decision: try again (unavailable) or not (refused)."""

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from pipeline.aws.errors import CREDENTIALS_MENDS, UNAVAILABLE, VendorError, sdk_mend
from pipeline.errors import MessageRefusedError, ServiceError, ServiceRefusedError, ServiceUnavailableError

#: Codes that pass by themselves. Source: "Error handling with DynamoDB" in its developer guide.
RETRYABLE_CODES = frozenset(
    {
        "ExpiredToken",  # botocore fetches new credentials from the role before the next call
        "ExpiredTokenException",
        "InternalServerError",
        "ItemCollectionSizeLimitExceededException",
        "LimitExceededException",  # too many tables being made at once
        "ProvisionedThroughputExceededException",
        "ReplicatedWriteConflictException",  # another region writes the item of a global table
        "RequestExpired",
        "RequestLimitExceeded",
        "ResourceInUseException",  # a table that is being made or changed
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "TransactionConflictException",  # another transaction holds the item
        "TransactionInProgressException",
    }
)

#: The mend of each refusal.
_MENDS = CREDENTIALS_MENDS | {
    "ResourceNotFoundException": 'run "pipeline provision", or correct DYNAMODB_TABLE or AWS_DEFAULT_REGION',
    "AccessDeniedException": "allow the action on the table and its index to this process's role",
}

#: The code of one malformed request, such as a key that is too long; others succeed. Source: as above.
_MALFORMED = "ValidationException"


class NoRecordError(ServiceRefusedError):
    """A job has no record: it expired, or belongs to another service, so its end is not awaited here."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"Job {job_id} has no record in the table: it expired, or it was opened under another "
            "SERVICE_NAME or DYNAMODB_TABLE than this process has"
        )


class TaskOverError(ServiceRefusedError):
    """A dead letter is not to be redriven: its task is done, or it is too late for it."""

    def __init__(self, job_id: str, stage: str, found: str) -> None:
        why = "it is done" if found == "done" else "its job has ended, or its gather went on without it"
        super().__init__(f"A task of stage {stage} of job {job_id} cannot run again: {why}")


def table_error(error: VendorError, action: str) -> ServiceError:
    """Convert the error of a call. ``action`` says what was being done, with the table's name."""
    if not isinstance(error, ClientError):
        kind = ServiceUnavailableError if isinstance(error, UNAVAILABLE) else ServiceRefusedError
        return kind(f"Could not {action}: {error}{sdk_mend(error)}")
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    passes = status >= 500 or status == 429 or code in RETRYABLE_CODES
    reason = error.response.get("Error", {}).get("Message") or f"HTTP {status}"
    mend = f" ({_MENDS[code]})" if code in _MENDS else ""
    refused = MessageRefusedError if code == _MALFORMED else ServiceRefusedError
    return (ServiceUnavailableError if passes else refused)(f"Could not {action}: {code}: {reason}{mend}")


#: Codes of one statement of a batch that pass by themselves (BatchStatementError, API reference).
_RETRYABLE_STATEMENT_CODES = frozenset(
    {
        "InternalServerError",
        "ItemCollectionSizeLimitExceeded",
        "ProvisionedThroughputExceeded",
        "RequestLimitExceeded",
        "ThrottlingError",
        "TransactionConflict",
    }
)


#: Codes of a statement whose condition does not hold: nothing was written. Source: as above.
_UNMET_STATEMENT_CODES = frozenset({"ConditionalCheckFailed", "DuplicateItem"})

#: Codes of a statement that is refused for what is in it; others succeed. Source: as above.
_MALFORMED_STATEMENT_CODES = frozenset({"ValidationError", "ItemSizeLimitExceeded"})


def statement_answer(error: Mapping[str, str] | None, action: str) -> bool | ServiceError:
    """Return whether a statement of a batch wrote, False if its condition does not hold, or its error."""
    if not error or error.get("Code") in _UNMET_STATEMENT_CODES:
        return not error
    code, reason = error.get("Code", ""), error.get("Message") or "no reason given"
    mend = _MENDS.get(f"{code}Exception")
    refused = MessageRefusedError if code in _MALFORMED_STATEMENT_CODES else ServiceRefusedError
    kind = ServiceUnavailableError if code in _RETRYABLE_STATEMENT_CODES else refused
    return kind(f"Could not {action}: {code}: {reason}{f' ({mend})' if mend else ''}")


def error_code(error: ClientError) -> str:
    """Return the code of an answer, without the namespace that some servers put before it."""
    return error.response.get("Error", {}).get("Code", "").rsplit("#", 1)[-1]


def old_item(error: ClientError) -> dict[str, Any] | None:
    """Return the item that made a conditional write fail, if the answer has it."""
    item: dict[str, Any] | None = error.response.get("Item")  # type: ignore[assignment]
    return item
