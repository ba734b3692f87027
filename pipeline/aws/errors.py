"""What AWS's SDK says whichever service is asked: which of its errors pass, and what mends the others."""

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.parsers import ResponseParserError

#: All that a call of the SDK may raise. It refreshes credentials within the call, and what that meets is no
#: error of its own: ``RuntimeError`` where a role's new credentials are expired already (a clock that is
#: wrong, a stale answer), ``OSError`` where the token file of a Kubernetes service account is away.
VendorError = ClientError | BotoCoreError | ResponseParserError | RuntimeError | OSError
VENDOR_ERRORS = (ClientError, BotoCoreError, ResponseParserError, RuntimeError, OSError)

#: Errors of the SDK itself, without an answer of the service, that pass by themselves.
UNAVAILABLE = (
    HTTPClientError,  # connection refused, timed out, closed, proxy and TLS errors
    ConnectionError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    ResponseParserError,  # an answer that is not the service's: a proxy or load balancer spoke
    RuntimeError,
    OSError,
)

_CREDENTIALS = "give this process a role, or name a profile in AWS_PROFILE"
_REGION = "set AWS_DEFAULT_REGION"

#: What a person can do about an error of the SDK itself.
_SDK_MENDS: tuple[tuple[type[Exception], str], ...] = (
    (NoCredentialsError, _CREDENTIALS),
    (PartialCredentialsError, _CREDENTIALS),
    (ProfileNotFound, "correct AWS_PROFILE, or give this process a role"),
    (NoRegionError, _REGION),
)

_WHO = "these credentials are not valid there: correct AWS_PROFILE, the role or AWS_DEFAULT_REGION"

#: What a person can do where a service does not know who asks, by its code ("Common errors", API references).
WHO_MENDS = dict.fromkeys(
    (
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    ),
    _WHO,
)


def sdk_mend(error: Exception) -> str:
    """`` (what to do)`` about an error of the SDK itself; empty where its message says it all."""
    found = [mend for kind, mend in _SDK_MENDS if isinstance(error, kind)]
    return f" ({found[0]})" if found else ""
