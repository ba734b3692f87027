"""The TLS-only statement of a queue's policy: recognized in any spelling, added without loss."""

import json
from typing import Any

import pytest

from pipeline.infra.queuepolicy import is_tls_only, tls_only_policy, with_tls_only

ARN = "arn:aws:sqs:eu-west-1:123456789012:orders.fifo"
STATEMENT: dict[str, Any] = tls_only_policy(ARN)["Statement"][0]
PARTNER = {"Sid": "Partner", "Effect": "Allow", "Principal": {"AWS": "123"}, "Action": "sqs:SendMessage"}


def _policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


@pytest.mark.parametrize(
    "statement",
    [
        STATEMENT,
        {**STATEMENT, "Sid": "another"},
        {**STATEMENT, "Principal": {"AWS": "*"}},
        {**STATEMENT, "Action": ["SQS:*"], "Resource": "*"},
        {**STATEMENT, "Condition": {"Bool": {"aws:SecureTransport": [False]}}},
    ],
)
def test_a_queue_that_is_tls_only_is_recognized(statement: dict[str, Any]) -> None:
    """However CDK, the console or a person wrote the statement, also as the only one without a list."""
    assert is_tls_only(_policy(PARTNER, statement))
    assert is_tls_only(json.dumps({"Statement": statement}))


@pytest.mark.parametrize(
    "change",
    [
        {"Effect": "Allow"},
        {"Principal": {"AWS": "arn:aws:iam::123456789012:role/worker"}},
        {"Action": "sqs:SendMessage"},
        {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
        {"Condition": {}},
        {"Condition": {**STATEMENT["Condition"], "StringEquals": {"aws:SourceVpc": "vpc-1"}}},
    ],
)
def test_a_statement_that_denies_less_is_not_enough(change: dict[str, Any]) -> None:
    """One caller, one action, the opposite, or only from somewhere."""
    assert not is_tls_only(_policy({**STATEMENT, **change}))


@pytest.mark.parametrize(
    "policy", [None, "", _policy(), _policy(PARTNER), json.dumps({"Statement": PARTNER})]
)
def test_the_statement_is_added_and_others_stay(policy: str | None) -> None:
    """What a queue allows others is not lost when it is made TLS-only."""
    assert not is_tls_only(policy)
    mended = with_tls_only(policy, ARN)
    assert is_tls_only(mended)
    assert STATEMENT in json.loads(mended)["Statement"]
    assert ("Partner" in mended) == ("Partner" in (policy or ""))
