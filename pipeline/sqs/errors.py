"""SQS errors as decisions: ask again (unavailable) or not (refused)."""

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from pipeline.aws.errors import CREDENTIALS_MENDS, UNAVAILABLE, VendorError, sdk_mend
from pipeline.errors import MessageRefusedError, ServiceError, ServiceRefusedError, ServiceUnavailableError

#: Codes that pass by themselves, as normalised by ``error_code``.
#: Source: the common errors and the errors of each action in the SQS API reference.
RETRYABLE_CODES = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "KmsThrottled",
        "OverLimit",  # too many messages in flight: passes when some are deleted
        "QueueDeletedRecently",  # the name is free again after 60 s
        "RequestExpired",  # signed too long ago: the next try is signed anew
        "RequestThrottled",
        "RequestTimeout",
        "ServiceUnavailable",
        "ExpiredToken",  # botocore fetches new credentials from the role before the next call
        "ExpiredTokenException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)

#: The mend of a refusal, by its code.
_MENDS = CREDENTIALS_MENDS | {
    "QueueDoesNotExist": 'run "pipeline provision", or correct the queue\'s URL or AWS_DEFAULT_REGION',
    "NonExistentQueue": 'run "pipeline provision", or correct the queue\'s URL or AWS_DEFAULT_REGION',
    "AccessDenied": "allow the action on the queue to this process's role",
    "AccessDeniedException": "allow the action on the queue to this process's role",
    "ReceiptHandleIsInvalid": "nothing to mend: the lease is lost, the message is or will be received again",
}


def error_code(code: str) -> str:
    """Return a code without the prefix of the protocol.

    The query protocol says ``AWS.SimpleQueueService.X``, the JSON protocol ``com.amazonaws.sqs#X``.
    """
    return code.rsplit("#", 1)[-1].removeprefix("AWS.SimpleQueueService.").removeprefix("KMS.")


def sqs_error(error: VendorError, action: str) -> ServiceError:
    """Return the error of a whole call. ``action`` names what was being done, and the queue."""
    if isinstance(error, ClientError):
        return _answered(error, action)
    kind = ServiceUnavailableError if isinstance(error, UNAVAILABLE) else ServiceRefusedError
    return kind(f"Could not {action}: {error}{sdk_mend(error)}")


def entry_error(failed: Mapping[str, Any], action: str) -> ServiceError:
    """Return the error of one entry of a batch (a ``BatchResultErrorEntry``)."""
    code = error_code(failed.get("Code", ""))
    # SenderFault means that asking again gives the same answer; throttled entries carry it too.
    refused = failed.get("SenderFault", False) and code not in RETRYABLE_CODES
    kind = MessageRefusedError if refused else ServiceUnavailableError
    return _error(kind, code, failed.get("Message") or "no reason given", action)


def _answered(error: ClientError, action: str) -> ServiceError:
    answer = error.response.get("Error", {})
    code = error_code(answer.get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    passes = status >= 500 or status == 429 or code in RETRYABLE_CODES
    kind = ServiceUnavailableError if passes else ServiceRefusedError
    return _error(kind, code, answer.get("Message") or f"HTTP {status}", action)


def _error(kind: type[ServiceError], code: str, reason: str, action: str) -> ServiceError:
    mend = f" ({_MENDS[code]})" if code in _MENDS else ""
    return kind(f"Could not {action}: {code}: {reason}{mend}")
