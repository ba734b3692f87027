"""Errors of AWS's SDK are converted at both doors to messages that name the fix."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
)
from botocore.session import Session

from pipeline.errors import ServiceError, ServiceRefusedError, ServiceUnavailableError
from pipeline.jobs.errors import table_error
from pipeline.jobs.table import Table
from pipeline.sqs import SqsQueue
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


def still_expired() -> dict[str, str]:
    """The answer of a role to a process whose clock is ahead."""
    past = datetime.now(UTC) - timedelta(seconds=5)
    return {"access_key": "a", "secret_key": "b", "token": "c", "expiry_time": past.isoformat()}


def token_file_away() -> dict[str, str]:
    """The variables that are read for a role of a Kubernetes service account."""
    return {"token": Path("/nowhere/token").read_text()}


def client(service: str, refresh: Callable[[], dict[str, str]]) -> Any:
    """A client whose credentials are to be refreshed at its next call."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    session: Any = Session()
    session._credentials = RefreshableCredentials("a", "b", "c", past, refresh, "role")
    return session.create_client(
        service,
        region_name="eu-west-1",
        endpoint_url="http://127.0.0.1:9",
        config=Config(parameter_validation=False),
    )


@pytest.mark.parametrize(
    ("refresh", "why"), [(still_expired, "still expired"), (token_file_away, "/nowhere/token")]
)
def test_credentials_that_cannot_be_refreshed_now_are_a_service_that_is_away(
    refresh: Callable[[], dict[str, str]], why: str
) -> None:
    """botocore raises what is no error of its own then; at either door it is one that passes."""
    queue = SqsQueue(client("sqs", refresh), "http://127.0.0.1:9/1/a.fifo")
    table = Table("jobs", lambda: client("dynamodb", refresh))
    (answer,) = queue.delete(["handle"])
    assert isinstance(answer, ServiceUnavailableError)
    assert why in str(answer)
    with pytest.raises(ServiceUnavailableError, match=why):
        table.get(("p", "-"))
