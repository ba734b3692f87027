"""What the API is given: bodies of requests."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from pipeline.deadletters import Filter, Place

Moment = Annotated[float, Field(ge=0, le=9_999_999_999, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]


class Body(BaseModel):
    """A body without anything that is not described."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Submit(Body):
    """A job to be started."""

    #: The name of a stage, or of a topic that one consumes.
    start: Text
    #: The data of its first event.
    data: Any
    #: What it is about: the key of its events; left out, each job is its own entity.
    entity_id: Text | None = None

    @model_validator(mode="after")
    def _printable(self) -> "Submit":
        if self.entity_id is not None and not self.entity_id.isprintable():
            raise ValueError("entity_id cannot be a key: use printable text")
        return self

    def event_data(self) -> bytes:
        """As the event has it."""
        return json.dumps(self.data, separators=(",", ":")).encode()


class _Letters(Body):
    """Dead letters: all that is given must hold."""

    #: Ids of dead letters or of their tasks.
    ids: Annotated[list[Text], Field(max_length=1_000)] = []
    stage: Text | None = None
    job_id: Text | None = None
    #: The exception's class, with or without its module; * stands for anything.
    error: Text | None = None
    #: Given up on since, and before.
    since: Moment | None = None
    before: Moment | None = None
    place: Place | None = None

    def filter(self) -> Filter:
        """The same for those who look for them."""
        return Filter(
            ids=frozenset(self.ids),
            stage=self.stage,
            job_id=self.job_id,
            error=self.error,
            since=self.since,
            before=self.before,
            place=self.place,
        )

    def said(self) -> dict[str, Any]:
        """What was given, for the log."""
        return self.model_dump(exclude_defaults=True)


class Choice(_Letters):
    """Which dead letters are to be redriven."""

    #: Also those of ordered stages, although later tasks of their entity have run.
    out_of_order: bool = False

    @model_validator(mode="after")
    def _chosen(self) -> "Choice":
        if self.filter().is_empty:
            raise ValueError("say which: ids, a job, a stage, …")
        return self


class Purge(_Letters):
    """Which dead letters are to be removed for good: all of them when nothing is said."""

    #: The dead-letter queue's name, typed by who means it.
    queue: Text
