"""Queues compared with their needs: encryption and policy."""

import pytest

from pipeline.author.registry import Registry
from pipeline.infra.compare import compare_queue
from pipeline.infra.needs import queue_needs
from pipeline.infra.queuepolicy import with_tls_only
from pipeline.settings import load_settings
from tests.unit.test_settings import REQUIRED

ARN = "arn:aws:sqs:eu-west-1:123456789012:orders-dlq.fifo"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/0f7a5b3c-1d2e-4f60-8a9b-c0d1e2f3a4b5"
TLS = {"Policy": with_tls_only(None, ARN)}


def _differences(
    attributes: dict[str, str], *, scheme: str = "https", key: str = ""
) -> dict[str, str | None]:
    """The attributes that an update would set, and their present values."""
    queues = f"{scheme}://sqs.eu-west-1.amazonaws.com/123456789012"
    own = {"SQS_TASK_QUEUE_URL": f"{queues}/orders.fifo", "SQS_DLQ_URL": f"{queues}/orders-dlq.fifo"}
    need = queue_needs(load_settings({**REQUIRED, **own, "KMS_KEY_ARN": key}), Registry())[0]
    found = compare_queue(need, {"QueueArn": ARN, **attributes}, None)
    return {each.key: each.present for each in found.differences}


@pytest.mark.parametrize(
    ("attributes", "key", "differences"),
    [
        ({"SqsManagedSseEnabled": "true"}, "", {}),
        ({"SqsManagedSseEnabled": "false"}, "", {"SqsManagedSseEnabled": "false"}),
        # A key of the user's own is more than is needed.
        ({"SqsManagedSseEnabled": "false", "KmsMasterKeyId": "alias/mine"}, "", {}),
        ({"SqsManagedSseEnabled": "false", "KmsMasterKeyId": KEY}, KEY, {}),
        ({"SqsManagedSseEnabled": "true"}, KEY, {"KmsMasterKeyId": None}),
        ({"KmsMasterKeyId": "alias/aws/sqs"}, KEY, {"KmsMasterKeyId": "alias/aws/sqs"}),
        # An emulator that tells nothing of encryption.
        ({}, "", {}),
        ({}, KEY, {}),
    ],
)
def test_a_queue_must_be_encrypted_with_the_key_of_the_settings(
    attributes: dict[str, str], key: str, differences: dict[str, str | None]
) -> None:
    """With SQS's key, or the one that is set; a service that does not tell is not judged."""
    assert _differences({**TLS, **attributes}, key=key) == differences


@pytest.mark.parametrize(
    ("attributes", "differs"), [({}, True), ({"Policy": '{"Statement": []}'}, True), (TLS, False)]
)
def test_a_queue_must_be_tls_only(attributes: dict[str, str], differs: bool) -> None:
    """The policy denies requests without TLS; a queue of this machine, under http://, has none."""
    assert ("Policy" in _differences(attributes)) == differs
    assert _differences(attributes, scheme="http") == {}
