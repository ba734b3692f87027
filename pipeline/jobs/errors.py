"""What DynamoDB answered, as a decision: ask again (unavailable) or not (refused)."""

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from pipeline.aws import UNAVAILABLE, WHO_MENDS, VendorError, sdk_mend
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
        "TransactionConflictException",  # somebody's transaction holds the item
        "TransactionInProgressException",
    }
)

#: What a person can do about a refusal.
_MENDS = WHO_MENDS | {
    "ResourceNotFoundException": 'run "pipeline provision", or correct DYNAMODB_TABLE or AWS_DEFAULT_REGION',
    "AccessDeniedException": "allow the action on the table and its index to this process's role",
}

#: What is wrong with one request, such as a key that is too long; others go through. Source: as above.
_MALFORMED = "ValidationException"


class NoRecordError(ServiceRefusedError):
    """A job has no record here: it expired, or is another service's. So nobody waits for its end here."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"Job {job_id} has no record in the table: it expired, or it was opened under another "
            "SERVICE_NAME or DYNAMODB_TABLE than this process has"
        )


def table_error(error: VendorError, action: str) -> ServiceError:
    """The error of a call. ``action`` says what was being done, with the table's name."""
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


def statement_error(error: Mapping[str, str], action: str) -> ServiceError:
    """The error of one statement of a batch."""
    code, reason = error.get("Code", ""), error.get("Message") or "no reason given"
    mend = _MENDS.get(f"{code}Exception")
    kind = ServiceUnavailableError if code in _RETRYABLE_STATEMENT_CODES else ServiceRefusedError
    return kind(f"Could not {action}: {code}: {reason}{f' ({mend})' if mend else ''}")


def error_code(error: ClientError) -> str:
    """The code of an answer, without the namespace some servers put before it."""
    return error.response.get("Error", {}).get("Code", "").rsplit("#", 1)[-1]


def old_item(error: ClientError) -> dict[str, Any] | None:
    """The item a refused conditional write ran into (``ReturnValuesOnConditionCheckFailure``), if any."""
    item: dict[str, Any] | None = error.response.get("Item")  # type: ignore[assignment]
    return item
