"""References to data that is kept on S3, because the message, record or item of its service does not take it.

A reference names no bucket and no key: both follow from the settings of its reader and from these fields. So
nothing that comes from outside can make a process read another object.
"""

import hashlib
import re
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import InvalidInputError

#: The content type of a task's message whose body is a ``ReferencedBody``. Versions before it dead-letter the
#: message for its content type, and run nothing.
REFERENCE_TYPE: Final = "application/vnd.pipeline.reference+json"

#: Bytes of the largest data that is kept: a process has it in memory whole.
LARGEST_BYTES: Final = 256 * 1024 * 1024

#: The purpose of the data: a task's input, an event's data, the input or the result of a part.
PayloadRole = Literal["task", "event", "part", "result"]


#: Begins the text of a reference where JSON texts stand; no JSON text begins with it.
_SIGN: Final = "@"

_URI: Final = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])"
    r"/([A-Za-z0-9_-]{1,64})/([a-z]{1,10})/([A-Za-z0-9._:-]{1,255})/([0-9a-f]{64})#size=(\d{1,10})",
    re.ASCII,
)


class Reference(BaseModel):
    """Where data is kept, and what it is. A wire format."""

    model_config = ConfigDict(frozen=True)

    #: The service that keeps it.
    service: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    role: PayloadRole
    #: The id of the task or event that it belongs to; of a part, with its ordinal.
    id: str = Field(pattern=r"^[A-Za-z0-9._:-]{1,255}$")
    #: Bytes.
    size: int = Field(ge=0, le=LARGEST_BYTES)
    #: Hexadecimal, of these bytes.
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def to(cls, data: bytes, *, service: str, role: PayloadRole, id: str) -> Self:
        """Return the reference to ``data``. The same data under the same id is the same object."""
        digest = hashlib.sha256(data).hexdigest()
        return cls(service=service, role=role, id=id, size=len(data), sha256=digest)

    @property
    def key(self) -> str:
        """The key of its object. The digest is in it, so that other data never takes its place.

        A task that runs again after a crash may return something else, while the event of its first run is
        read.
        """
        return f"{self.service}/{self.role}/{self.id}/{self.sha256}"

    def uri(self, bucket: str) -> str:
        """Return the URI in an event's ``dataref``."""
        return f"s3://{bucket}/{self.key}#size={self.size}"

    @classmethod
    def of_uri(cls, uri: str) -> tuple[str, Self] | None:
        """Return the bucket and the reference in a URI; None where it is none of this project."""
        found = _URI.fullmatch(uri)
        if found is None:
            return None
        bucket, service, role, id, digest, size = found.groups()
        fields = {"service": service, "role": role, "id": id, "size": int(size), "sha256": digest}
        try:
            return bucket, cls.model_validate(fields)
        except ValidationError:
            return None

    def __str__(self) -> str:
        """Return it as people see it in place of the data."""
        return f"<{self.size:,} bytes on S3: {self.key}>"


class ReferencedBody(BaseModel):
    """The body of a task's message whose data, or whole body, is on S3."""

    model_config = ConfigDict(frozen=True)

    reference: Reference
    #: Those of a plain task: the worker publishes them without reading the rest.
    errbacks: list[Any] | None = None

    @classmethod
    def read(cls, body: str | bytes) -> Self:
        """Return it; raise ``InvalidInputError`` for another text."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
            raise InvalidInputError(f"its body is no reference to data on S3: {wrong}") from error

    def text(self) -> str:
        """Return the text of the body."""
        return self.model_dump_json(exclude_none=True)


def to_text(data: "str | Reference") -> str:
    """Return data, or the reference to it, as one text among others."""
    return data if isinstance(data, str) else _SIGN + data.model_dump_json()


def from_text(text: str) -> "str | Reference":
    """Return the data, or the reference, that ``to_text`` made a text of."""
    return Reference.model_validate_json(text[len(_SIGN) :]) if text.startswith(_SIGN) else text
