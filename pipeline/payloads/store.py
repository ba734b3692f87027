"""The payloads of a service: put before what names them, read by their references, never changed."""

import base64
import hashlib
import time
from typing import Final

import structlog
from botocore.exceptions import ClientError

from pipeline.aws.errors import VENDOR_ERRORS
from pipeline.errors import MessageRefusedError, PayloadLostError, ServiceUnavailableError
from pipeline.patience import FIRST_PAUSE, LONGEST_PAUSE
from pipeline.payloads.client import s3_client
from pipeline.payloads.errors import GONE_CODES, error_code, s3_error
from pipeline.settings import Settings
from pipeline.telemetry import metrics
from pipeline.wire.references import LARGEST_BYTES, PayloadRole, Reference

log = structlog.get_logger(__name__)

#: The mend of data that would need S3 in a service that has no bucket.
SET_BUCKET: Final = (
    "set PAYLOAD_BUCKET, and it is kept on S3; or store the data elsewhere and send where it is"
)

#: Bytes of an object's data that are read at once.
_CHUNK: Final = 1024 * 1024


class PayloadsOffError(MessageRefusedError):
    """Data is too large for where it goes, and PAYLOAD_BUCKET is not set."""


class Payloads:
    """The payloads of one service. Threads may share it; it may be carried through a fork."""

    def __init__(self, settings: Settings) -> None:
        self._service = settings.service_name
        #: The bucket; None where nothing is kept on S3.
        self.bucket = settings.payload_bucket

    def put(self, role: PayloadRole, id: str, data: bytes) -> Reference:
        """Keep data; return the reference to it. A repetition overwrites the object with the same bytes.

        Raises ``PayloadsOffError`` without a bucket, ``MessageRefusedError`` for data that is too large
        here, and the ServiceError of S3.
        """
        if self.bucket is None:
            raise PayloadsOffError(f"{role} {id} has {len(data):,} bytes of data: {SET_BUCKET}")
        if len(data) > LARGEST_BYTES:
            raise MessageRefusedError(
                f"{role} {id} has {len(data):,} bytes of data, and the most that is kept on S3 is "
                f"{LARGEST_BYTES:,}: store it elsewhere and send where it is"
            )
        reference = Reference.to(data, service=self._service, role=role, id=id)
        began = time.monotonic()
        try:
            s3_client().put_object(
                Bucket=self.bucket,
                Key=reference.key,
                Body=data,
                # S3 refuses what does not arrive whole.
                ChecksumSHA256=base64.b64encode(bytes.fromhex(reference.sha256)).decode(),
                ContentType="application/json",
            )
        except VENDOR_ERRORS as error:
            metrics.PAYLOADS_FAILED.labels(role).inc()
            raise s3_error(error, f"keep {role} {id} in bucket {self.bucket}") from error
        metrics.PAYLOADS_KEPT.labels(role).inc()
        metrics.PAYLOAD_BYTES.labels(role).inc(len(data))
        metrics.PAYLOAD_SECONDS.observe(time.monotonic() - began)
        return reference

    def get(self, reference: Reference) -> bytes:
        """Return the data of a reference.

        Raises ``PayloadLostError`` where it is gone or damaged, or not this service's to read, and the
        ServiceError of S3.
        """
        self._check_believable(reference)
        action = f"read {reference.key} of bucket {self.bucket}"
        try:
            answer = s3_client().get_object(Bucket=str(self.bucket), Key=reference.key)
            data = _read(answer["Body"], reference.size)
        except ClientError as error:
            if error_code(error) in GONE_CODES:
                raise PayloadLostError(
                    f"Its data is gone: bucket {self.bucket} has no object {reference.key}. A lifecycle "
                    "rule or a person deleted it: keep objects as long as the rule of 'pipeline provision' "
                    "does, and submit the data anew"
                ) from error
            raise s3_error(error, action) from error
        except VENDOR_ERRORS as error:
            raise s3_error(error, action) from error
        if len(data) != reference.size or hashlib.sha256(data).hexdigest() != reference.sha256:
            raise PayloadLostError(
                f"Its data is damaged: object {reference.key} of bucket {self.bucket} has not the "
                f"{reference.size:,} bytes that were kept. Something else wrote to the bucket: find out "
                "what, and submit the data anew"
            )
        return data

    def text(self, data: str | Reference) -> str:
        """Return data as JSON text; read it if it is a reference."""
        return data if isinstance(data, str) else self.get(data).decode()

    def wait_for(self, reference: Reference, within: float) -> bytes:
        """Return the data of a reference; wait for an S3 that is away, for at most ``within`` seconds."""
        deadline, pause = time.monotonic() + within, FIRST_PAUSE
        began = time.monotonic()
        while True:
            try:
                data = self.get(reference)
            except ServiceUnavailableError as error:
                if time.monotonic() + pause > deadline:
                    raise
                log.warning("payload.unanswered", key=reference.key, error=str(error))
                time.sleep(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)
            else:
                seconds = round(time.monotonic() - began, 3)
                log.info("payload.read", key=reference.key, bytes=len(data), seconds=seconds)
                return data

    def _check_believable(self, reference: Reference) -> None:
        if self.bucket is None:
            raise PayloadLostError(
                f"Its data is on S3 ({reference.key}), and this process has no PAYLOAD_BUCKET: set it to the "
                "bucket of the process that sent it, then redrive"
            )
        if reference.role != "event" and reference.service != self._service:
            raise PayloadLostError(
                f"Its data is a {reference.role} of service {reference.service!r}, and is not read here"
            )


def _read(body: object, size: int) -> bytes:
    """Return the data of an answer, one byte more than expected at most: a larger object is not the one."""
    read = getattr(body, "read")  # noqa: B009 - botocore's stream has no type
    data, left = bytearray(), size + 1
    try:
        while left > 0 and (chunk := read(min(left, _CHUNK))):
            data += chunk
            left -= len(chunk)
    finally:
        getattr(body, "close")()  # noqa: B009 - as above
    return bytes(data)
