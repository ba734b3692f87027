"""Administration of queues: read attributes, make, change. For their messages see ``queue.py``."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from pipeline.aws.errors import VENDOR_ERRORS
from pipeline.errors import ConfigurationError, ServiceUnavailableError
from pipeline.sqs.errors import error_code, sqs_error

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: Codes of a missing queue, in either protocol.
_MISSING = ("QueueDoesNotExist", "NonExistentQueue")

#: Seconds until a new queue answers; SQS asks for one second of patience (CreateQueue, API reference).
_READY_WITHIN = 15


def queue_attributes(client: "SQSClient", url: str) -> dict[str, str] | None:
    """Return all attributes of a queue under SQS's own names; None if there is no such queue."""
    try:
        answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    except ClientError as error:
        if error_code(error.response["Error"]["Code"]) in _MISSING:
            return None
        raise sqs_error(error, f"read the attributes of {url}") from error
    except VENDOR_ERRORS as error:
        raise sqs_error(error, f"read the attributes of {url}") from error
    return {str(name): value for name, value in answer.get("Attributes", {}).items()}


def queue_arn(client: "SQSClient", url: str) -> str:
    """Return the ARN that the queue of a URL has, also before it is made."""
    *_, account, name = url.split("/")
    return f"arn:{client.meta.partition}:sqs:{client.meta.region_name}:{account}:{name}"


def make_queue(client: "SQSClient", url: str, attributes: Mapping[str, str]) -> dict[str, str]:
    """Make the FIFO queue of a URL, wait until it answers, and return its attributes.

    Raises ConfigurationError if SQS makes it elsewhere: the URL is of another account or region.
    """
    name = url.rsplit("/", 1)[1]
    wanted: Any = {"FifoQueue": "true", **attributes}
    try:
        made = client.create_queue(QueueName=name, Attributes=wanted)["QueueUrl"]
    except VENDOR_ERRORS as error:
        raise sqs_error(error, f"make queue {name}") from error
    # Hosts differ for one queue: SQS has old and new names for its endpoints.
    if urlsplit(made).path != urlsplit(url).path:
        raise ConfigurationError(
            f"The settings say {url}, but SQS made {made}: the URL is of another account than AWS_PROFILE or "
            "the role. Correct the URL, and delete the queue that was made."
        )
    return _wait_for(client, url)


def change_queue(client: "SQSClient", url: str, attributes: Mapping[str, str]) -> None:
    """Set some attributes of a queue; the rest stays."""
    wanted: Any = dict(attributes)
    try:
        client.set_queue_attributes(QueueUrl=url, Attributes=wanted)
    except VENDOR_ERRORS as error:
        raise sqs_error(error, f"change {', '.join(attributes)} of {url}") from error


def _wait_for(client: "SQSClient", url: str) -> dict[str, str]:
    deadline = time.monotonic() + _READY_WITHIN
    while (attributes := queue_attributes(client, url)) is None:
        if time.monotonic() > deadline:
            raise ServiceUnavailableError(f"Queue {url} was made, but does not exist {_READY_WITHIN} s later")
        time.sleep(0.5)
    return attributes
