"""Events that are too large for Kafka: their data is put on S3, and ``dataref`` takes its place."""

from dataclasses import replace
from typing import Final

from pipeline.payloads.store import Payloads
from pipeline.wire.events import Event

#: Bytes of the largest data that an event has in its value. A topic takes 1,048,588 in a batch
#: (``max.message.bytes``, Kafka's default), headers and key included.
LARGEST_VALUE: Final = 1_000_000


def referenced(payloads: Payloads, event: Event) -> Event:
    """Return an event with its data on S3 if it is too large for a topic, else the event itself.

    Without PAYLOAD_BUCKET also the event itself: a topic may take more than Kafka's default. Raises the
    ServiceError of S3.
    """
    if len(event.data) <= LARGEST_VALUE or payloads.bucket is None:
        return event
    reference = payloads.put("event", event.id, event.data)
    return replace(event, data=b"", reference=reference, bucket=payloads.bucket)
