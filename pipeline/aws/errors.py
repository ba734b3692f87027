"""Errors of AWS's SDK, whichever service is called: which pass by themselves, and the mend of the others."""

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

#: All that a call of the SDK may raise. It refreshes credentials within the call, which raises other errors
#: than its own: ``RuntimeError`` if a role's new credentials are already expired (a wrong clock, a stale
#: answer), ``OSError`` if the token file of a Kubernetes service account is missing.
VendorError = ClientError | BotoCoreError | ResponseParserError | RuntimeError | OSError
VENDOR_ERRORS = (ClientError, BotoCoreError, ResponseParserError, RuntimeError, OSError)

#: Errors without an answer of the service that pass by themselves.
UNAVAILABLE = (
    HTTPClientError,  # connection refused, timed out, closed, proxy and TLS errors
    ConnectionError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    ResponseParserError,  # the answer of a proxy or load balancer
    RuntimeError,
    OSError,
)

_CREDENTIALS = "give this process a role, or name a profile in AWS_PROFILE"
_REGION = "set AWS_DEFAULT_REGION"

#: The mend of an error of the SDK itself.
_SDK_MENDS: tuple[tuple[type[Exception], str], ...] = (
    (NoCredentialsError, _CREDENTIALS),
    (PartialCredentialsError, _CREDENTIALS),
    (ProfileNotFound, "correct AWS_PROFILE, or give this process a role"),
    (NoRegionError, _REGION),
)

_INVALID_CREDENTIALS = (
    "these credentials are not valid there: correct AWS_PROFILE, the role or AWS_DEFAULT_REGION"
)

#: The mend if a service rejects the credentials, by its error code ("Common errors", API references).
CREDENTIALS_MENDS = dict.fromkeys(
    (
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    ),
    _INVALID_CREDENTIALS,
)


def sdk_mend(error: Exception) -> str:
    """Return the mend of an error of the SDK in parentheses; empty if its message suffices."""
    found = [mend for kind, mend in _SDK_MENDS if isinstance(error, kind)]
    return f" ({found[0]})" if found else ""
