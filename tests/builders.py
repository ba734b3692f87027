"""Builders of what many tests need: settings, received messages, task headers, leases."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.settings import Settings
from pipeline.sqs import ReceivedMessage
from pipeline.transport.lease import Lease
from pipeline.wire.taskmessage import HEADER, TaskHeader


def settings(**changes: Any) -> Settings:
    """Return settings of a service that is never connected to, with these changes."""
    return Settings(
        **{
            "service_name": "s",
            "kafka_bootstrap_servers": "k",
            "kafka_consumer_group": "g",
            "sqs_task_queue_url": "http://q/1/a.fifo",
            "sqs_dlq_url": "http://q/1/b.fifo",
            **changes,
        }
    )


def received_message(message_id: str = "m-1", **changes: Any) -> ReceivedMessage:
    """Return a message as SQS hands it out for the first time, alone in its group."""
    return ReceivedMessage(
        **{
            "message_id": message_id,
            "receipt_handle": f"h-{message_id}",
            "body": "",
            "group_id": message_id,
            "deduplication_id": message_id,
            "receive_count": 1,
            "sent_at": 0.0,
            "attributes": {},
            "requested_at": 1e9,
            **changes,
        }
    )


def pipeline_header(**changes: Any) -> dict[str, Any]:
    """Return the header of a task of the stage ``strict``, as JSON."""
    return {
        "job_id": "j",
        "stage": "strict",
        "role": "run",
        "event_source": "s",
        "event_id": "e",
        "entity_id": "e",
        "topic": "a",
        "partition": 0,
        "offset": 0,
        "submitted_at": 1000.0,
        **changes,
    }


def task_body(headers: Mapping[str, Any], body: Any = None, /, **changes: Any) -> str:
    """Return a Celery message as text: ``body`` is its [args, kwargs, embed].

    ``changes`` replace its other keys: "_" in a name stands for "-", and ``...`` leaves the key out.
    """
    whole = {
        "body": json.dumps([[], {}, {}] if body is None else body),
        "headers": dict(headers),
        "properties": {"delivery_info": {}},
        "content-type": "application/json",
        "content-encoding": "utf-8",
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    return json.dumps({name: value for name, value in whole.items() if value is not ...})


def lease(
    message_id: str = "m-1",
    headers: Mapping[str, Any] | None = None,
    *,
    body: Any = None,
    queue: str = "q",
    deadline: float = 2e9,
    **message: Any,
) -> Lease:
    """Return the lease of a message with the plain task ``note``, or with the task that ``headers`` name.

    ``message`` changes the message, as in ``received_message``.
    """
    whole = {"id": f"t-{message_id}", "task": "note", "ignore_result": True, **(headers or {})}
    received = received_message(message_id, **{"body": task_body(whole, body), **message})
    return Lease.of(received, queue, deadline)


def stage_lease(message_id: str = "m-1", header: Any = None, task: str = "strict", **about: Any) -> Lease:
    """Return the lease of a message with a task of the stage ``strict``, or of ``task``, under its own id."""
    header = pipeline_header() if header is None else header
    try:
        task_id = TaskHeader.model_validate(header).task_id
    except ValidationError:
        task_id = "of no header"
    return lease(message_id, {"id": task_id, "task": task, HEADER: header}, **about)
