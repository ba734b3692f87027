"""Requests of actions: one model each, read from the API's JSON or query, or from a page's form.

And the types of all that a caller may write into an address: what is longer than anything real is refused.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from pipeline.deadletters import Filter, Place

Moment = Annotated[float, Field(ge=0, le=9_999_999_999, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
JobId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
StageName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
LetterId = Annotated[str, StringConstraints(pattern=r"^[!-.0-~]{1,200}$")]
Ordinal = Annotated[int, Field(ge=0, le=1_000_000_000)]


class ActionRequest(BaseModel):
    """One request. A field with a title is shown on the page's form, under that title."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def of_form(cls, form: Mapping[str, list[str]], path: Mapping[str, str]) -> Self:
        """Read a page's form, whose fields are named as here; blank fields are left out."""
        given: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            values = [value.strip() for value in form.get(name, ()) if value.strip()]
            if values:
                given[name] = values if get_origin(field.annotation) is list else values[0]
        return cls.model_validate({**given, **path})

    def log_fields(self) -> dict[str, Any]:
        """Return the fields for the log: those that were given."""
        return self.model_dump(exclude_defaults=True)


def faults(errors: Iterable[Mapping[str, Any]]) -> str:
    """Describe validation errors without the values, which may be anything."""
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'request'}: {each['msg']}" for each in errors)


# ─── Jobs ───


class SubmitRequest(ActionRequest):
    """A job to start."""

    #: The name of a stage, or of a topic that a stage consumes.
    start: Text = Field(title="Stage")
    #: The data of its first event. Bytes, which only a form gives: already JSON.
    data: Any = Field(title="Data, as JSON")
    #: The key of its events; without one the job is its own entity.
    entity_id: Text | None = Field(None, title="Entity: the key of the job's events, optional")
    #: A name of the caller's own for the job: submitted again under it, the job runs once.
    key: Text | None = None

    @classmethod
    def of_form(cls, form: Mapping[str, list[str]], path: Mapping[str, str]) -> Self:
        """Read the form; its data is JSON as text."""
        request = super().of_form(form, path)
        return request.model_copy(update={"data": str(request.data).encode()})

    def event_data(self) -> bytes:
        """Return the data as JSON."""
        if isinstance(self.data, bytes):
            return self.data
        return json.dumps(self.data, separators=(",", ":")).encode()

    def log_fields(self) -> dict[str, Any]:
        """Return the fields for the log, without the data."""
        return self.model_dump(exclude={"data"})


class JobRequest(ActionRequest):
    """A request about one job, which its path names."""

    job_id: JobId


class JobRedriveRequest(JobRequest):
    """A job whose dead letters are redriven."""

    #: Also redrive ordered stages whose entity has run later tasks.
    out_of_order: bool = Field(False, title="ordered stages too, out of order")


class ReplayRequest(JobRequest):
    """A stage of a job to replay."""

    stage: Text = Field(title="Stage")
    #: Run finished tasks again, in a new job.
    again: bool = Field(False, title="run finished tasks again, in a new job with new events")


# ─── Dead letters ───


class LettersRequest(ActionRequest):
    """Dead letters that match every field that is given."""

    #: Ids of dead letters or of their tasks.
    ids: Annotated[list[Text], Field(max_length=1_000)] = []
    stage: Text | None = None
    job_id: Text | None = None
    #: The exception's class, with or without its module; * matches any text.
    error: Text | None = None
    #: Failed at or after, and before.
    since: Moment | None = None
    before: Moment | None = None
    place: Place | None = None

    def filter(self) -> Filter:
        """Return the filter for these dead letters."""
        return Filter(
            ids=frozenset(self.ids),
            stage=self.stage,
            job_id=self.job_id,
            error=self.error,
            since=self.since,
            before=self.before,
            place=self.place,
        )


class RedriveRequest(LettersRequest):
    """Dead letters to redrive: at least one field must select them."""

    #: Also redrive ordered stages whose entity has run later tasks.
    out_of_order: bool = Field(False, title="also out of order")

    @model_validator(mode="after")
    def _selects(self) -> Self:
        if self.filter().is_empty:
            raise ValueError("select dead letters: by ids, a job, a stage, …")
        return self


class PurgeRequest(LettersRequest):
    """Dead letters to remove for good: all of them when no other field is given."""

    #: The name of the dead-letter queue, as a confirmation.
    queue: Text = Field(title="Name of the queue")
