"""The statement of a queue's policy that denies every request without TLS."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_SID = "DenyRequestsWithoutTls"
_WITHOUT_TLS = "aws:SecureTransport"


def tls_only_policy(arn: object) -> dict[str, Any]:
    """Return the policy of a queue that has no other; ``arn`` is an ARN, or a template's reference to it."""
    return {"Version": "2012-10-17", "Statement": [_statement(arn)]}


def with_tls_only(policy: str | None, arn: str) -> str:
    """Return a queue's policy with the statement added; its own statements stay."""
    if not policy:
        return json.dumps(tls_only_policy(arn))
    document = json.loads(policy)
    return json.dumps({**document, "Statement": [*_statements(document), _statement(arn)]})


def is_tls_only(policy: str | None) -> bool:
    """Return whether a queue's policy denies every request without TLS to everyone."""
    return any(_denies_without_tls(each) for each in _statements(json.loads(policy or "{}")))


def _statement(arn: object) -> dict[str, Any]:
    return {
        "Sid": _SID,
        "Effect": "Deny",
        "Principal": "*",
        "Action": "sqs:*",
        "Resource": arn,
        "Condition": {"Bool": {_WITHOUT_TLS: "false"}},
    }


def _statements(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    found = document.get("Statement", [])
    yield from [found] if isinstance(found, dict) else found


def _denies_without_tls(statement: Mapping[str, Any]) -> bool:
    condition = statement.get("Condition", {})
    return (
        statement.get("Effect") == "Deny"
        and statement.get("Principal") in ("*", {"AWS": "*"}, {"AWS": ["*"]})
        and bool({"*", "sqs:*"} & {action.lower() for action in _listed(statement.get("Action"))})
        # Another condition beside it would deny fewer requests.
        and list(condition) == ["Bool"]
        and list(condition["Bool"]) == [_WITHOUT_TLS]
        and [str(value).lower() for value in _listed(condition["Bool"][_WITHOUT_TLS])] == ["false"]
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
