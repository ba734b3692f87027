"""The demo's consumer: it turns changes of a table into the first events of the example pipeline."""

from pydantic import BaseModel

from pipeline import Event, Record, consumer
from pipeline.demo.changes import CONSUMER, TOPIC, event_id
from pipeline.demo.documents import Document


class Row(BaseModel):
    """A row of the table of documents."""

    #: The primary key.
    id: int
    path: str


@consumer(TOPIC, emits="document-received", name=CONSUMER)
def added(record: Record[Row]) -> Event[Document] | None:
    """Make an event of a row that is new; pass over all other changes."""
    if record.operation != "create":
        return None
    return Event(Document(path=record.data.path), id=event_id(record.data.id))
