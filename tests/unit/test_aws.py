"""What AWS's SDK says at either door ends in what a person can do about it."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
)

from pipeline.errors import ServiceError, ServiceRefusedError, ServiceUnavailableError
from pipeline.jobs.errors import table_error
from pipeline.sqs.errors import sqs_error

Convert = Callable[[Any, str], ServiceError]

DOORS = pytest.mark.parametrize("convert", [sqs_error, table_error])


def answered(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "Whatever")


@DOORS
@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (NoCredentialsError(), "a role, or name a profile in AWS_PROFILE"),
        (ProfileNotFound(profile="x"), "correct AWS_PROFILE"),
        (NoRegionError(), "set AWS_DEFAULT_REGION"),
        (answered("InvalidClientTokenId"), "correct AWS_PROFILE, the role or AWS_DEFAULT_REGION"),
        (answered("SignatureDoesNotMatch"), "correct AWS_PROFILE, the role or AWS_DEFAULT_REGION"),
        (answered("UnrecognizedClientException"), "correct AWS_PROFILE, the role or AWS_DEFAULT_REGION"),
    ],
)
def test_who_and_where_name_their_setting(convert: Convert, error: BotoCoreError, mend: str) -> None:
    """Credentials and region: refused, with the setting that mends it."""
    told = convert(error, "read it")
    assert isinstance(told, ServiceRefusedError)
    assert mend in str(told)


@DOORS
def test_what_passes_has_no_mend(convert: Convert) -> None:
    """A service that is away is asked again."""
    told = convert(EndpointConnectionError(endpoint_url="http://x"), "read it")
    assert isinstance(told, ServiceUnavailableError)
    assert str(told) == 'Could not read it: Could not connect to the endpoint URL: "http://x"'
