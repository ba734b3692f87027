"""Errors of S3, converted to a decision: try again (unavailable), do not (refused), or the data is lost."""

from botocore.exceptions import (
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
)

from pipeline.aws.errors import CREDENTIALS_MENDS, UNAVAILABLE, VendorError, sdk_mend
from pipeline.errors import ServiceError, ServiceRefusedError, ServiceUnavailableError

#: Codes that pass by themselves. Source: "Error responses" in S3's API reference.
RETRYABLE_CODES = frozenset(
    {
        "ExpiredToken",  # botocore fetches new credentials from the role before the next call
        "InternalError",
        "OperationAborted",  # another request changes the same bucket
        "RequestTimeTooSkewed",  # signed too long ago: the next try is signed anew
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "KMS.ThrottlingException",
    }
)

#: Codes of an object that is not there.
GONE_CODES = frozenset({"NoSuchKey", "404"})

_ALLOW = (
    "allow the action on PAYLOAD_BUCKET, and KMS_KEY_ARN, to this process's role: pipeline provision --iam"
)

#: The mend of each refusal.
_MENDS = CREDENTIALS_MENDS | {
    "NoSuchBucket": 'run "pipeline provision", or correct PAYLOAD_BUCKET or AWS_DEFAULT_REGION',
    "AccessDenied": _ALLOW,
    "403": _ALLOW,  # of a request without a body in its answer (HEAD)
    "BucketAlreadyExists": "the name belongs to another account: set PAYLOAD_BUCKET to another one",
    "PermanentRedirect": "the bucket is in another region: correct PAYLOAD_BUCKET or AWS_DEFAULT_REGION",
}

#: Answers that were cut off or damaged on their way.
_BROKEN = (IncompleteReadError, FlexibleChecksumError)


def s3_error(error: VendorError, action: str) -> ServiceError:
    """Return the error of a call. ``action`` says what was being done, with the bucket's name."""
    if not isinstance(error, ClientError):
        passes = isinstance(error, (*UNAVAILABLE, *_BROKEN))
        kind = ServiceUnavailableError if passes else ServiceRefusedError
        return kind(f"Could not {action}: {error}{sdk_mend(error)}")
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    passes = status >= 500 or status == 429 or code in RETRYABLE_CODES
    reason = error.response.get("Error", {}).get("Message") or f"HTTP {status}"
    mend = f" ({_MENDS[code]})" if code in _MENDS else ""
    return (ServiceUnavailableError if passes else ServiceRefusedError)(
        f"Could not {action}: {code}: {reason}{mend}"
    )


def error_code(error: ClientError) -> str:
    """Return the code of an answer; its status where it has no body."""
    return error.response.get("Error", {}).get("Code", "")
