"""Messages that are too large for SQS: their data is put on S3, and a reference takes its place."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from pipeline.payloads.store import Payloads
from pipeline.sqs import OutgoingMessage
from pipeline.wire.references import REFERENCE_TYPE, ReferencedBody
from pipeline.wire.taskmessage import HEADER, allow_in_sqs, data_of

#: Returns a message that SQS takes for one that is too large; raises a ServiceError.
Shrink = Callable[[OutgoingMessage], OutgoingMessage]


def shrinking(payloads: Payloads) -> Shrink:
    """Return what makes a task's message small: data of a stage's task, or the body of a plain one."""
    return partial(_shrink, payloads)


def _shrink(payloads: Payloads, message: OutgoingMessage) -> OutgoingMessage:
    envelope = json.loads(message.body)
    body, errbacks = envelope["body"], None
    if envelope["headers"].get(HEADER) is not None:
        kept = data_of(body)
    else:
        kept, errbacks = body, (json.loads(body)[2] or {}).get("errbacks")
    # The deduplication id: a plain task that is published again with other arguments has the same task id.
    reference = payloads.put("task", message.deduplication_id, kept.encode())
    envelope["body"] = ReferencedBody(reference=reference, errbacks=errbacks or None).text()
    envelope["content-type"] = REFERENCE_TYPE
    text = json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))
    return replace(message, body=allow_in_sqs(text))
