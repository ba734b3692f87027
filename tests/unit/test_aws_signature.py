"""Signatures are those that botocore makes."""

import datetime
import time

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from pipeline.aws.signature import Signer

WORDS = st.text("abcdefghijklmnopqrstuvwxyzABCDEF0123456789/+=", min_size=1, max_size=40)


@pytest.fixture(autouse=True)
def _one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore's clock and ours are two, so both stand still."""
    moment = datetime.datetime(2026, 3, 1, 23, 59, 59, tzinfo=datetime.UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: moment.replace(tzinfo=None))
    monkeypatch.setattr(time, "time", moment.timestamp)


@given(
    access_key=WORDS, secret=WORDS, token=st.none() | WORDS, body=st.binary(max_size=200), query=st.booleans()
)
def test_a_signature_is_botocores(
    access_key: str, secret: str, token: str | None, body: bytes, query: bool
) -> None:
    """With and without a session's token, for any body, host with its port."""
    credentials = Credentials(access_key, secret, token)
    headers = {"content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.SendMessageBatch"}
    headers |= {"x-amzn-query-mode": "true"} if query else {}
    signer = Signer(credentials, service="sqs", region="eu-west-1", host="localhost:9324")
    ours = signer.signed(headers, body)
    request = AWSRequest("POST", "http://localhost:9324/", headers=headers, data=body)
    SigV4Auth(credentials, "sqs", "eu-west-1").add_auth(request)
    assert ours.pop("host") == "localhost:9324"
    assert ours == {name.lower(): value for name, value in request.headers.items()}


def test_the_key_is_awss_own_example() -> None:
    """The derived key of AWS's documentation ("Examples of how to derive a signing key")."""
    secret, expected = (
        "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        ("c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"),
    )
    signer = Signer(Credentials("AKIDEXAMPLE", secret), service="iam", region="us-east-1", host="h")
    assert signer._key_of(secret, "20150830").hex() == expected


def test_new_credentials_sign_the_next_request() -> None:
    """A role's credentials are replaced every hour; keys of signatures are kept for a day."""
    credentials = Credentials("first", "secret-1")
    signer = Signer(credentials, service="dynamodb", region="eu-west-1", host="h")
    first = signer.signed({}, b"{}")["authorization"]
    credentials.access_key, credentials.secret_key, credentials.token = "second", "secret-2", "token-2"
    headers = signer.signed({}, b"{}")
    fresh = Signer(credentials, service="dynamodb", region="eu-west-1", host="h").signed({}, b"{}")
    assert headers == fresh
    assert headers["x-amz-security-token"] == "token-2"
    assert first != headers["authorization"]
