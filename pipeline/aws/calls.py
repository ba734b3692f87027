"""Lean calls: JSON on a kept connection. botocore decides about each answer that is not a plain 200."""

import base64
import itertools
import json
import time
import zlib
from dataclasses import dataclass
from typing import Any

from botocore.awsrequest import HeadersDict
from botocore.exceptions import ConnectionError, HTTPClientError
from botocore.hooks import first_non_none_response
from botocore.parsers import create_parser

from pipeline.aws.answers import Answer
from pipeline.aws.connections import Connections
from pipeline.aws.signature import Signer


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    """One try: its answer, as read and as parsed, or the failure to get one."""

    answer: Answer | None = None
    parsed: dict[str, Any] | None = None
    failure: Exception | None = None
    #: Whether nothing is left to decide.
    done: bool = False


class LeanCall:
    """One operation of a botocore client: the same parameters, answers and errors as its method.

    Answers lack ``ResponseMetadata``. Whether and when to try again is asked of botocore, by the client's own
    events: its rules, its quota of retries, shared with the client's other calls.
    """

    def __init__(self, client: Any, operation: str, connections: Connections, signer: Signer) -> None:
        self._client, self._connections, self._signer = client, connections, signer
        self._service = client.meta.service_model
        self._model = self._service.operation_model(operation)
        self._event = f"{self._service.service_id.hyphenize()}.{operation}"
        metadata = self._service.metadata
        self._headers = {
            "content-type": f"application/x-amz-json-{metadata['jsonVersion']}",
            "x-amz-target": f"{metadata['targetPrefix']}.{operation}",
        }
        if "awsQueryCompatible" in metadata:
            # Errors keep the codes that SQS had before it spoke JSON.
            self._headers["x-amzn-query-mode"] = "true"
        self._more_headers = {
            "user-agent": client.meta.config.user_agent,
            "accept-encoding": "identity",
        }

    def __call__(self, **fields: Any) -> dict[str, Any]:
        """Return the answer to a request of these fields."""
        body = json.dumps(fields, default=_base64).encode()
        context: dict[str, Any] = {}
        for attempt in itertools.count(1):
            outcome = self._try(body)
            if outcome.done or not self._wait_for_retry(outcome, attempt, context):
                break
        return self._result(outcome, attempt - 1, context)

    def _try(self, body: bytes) -> _Outcome:
        request = self._request(body)
        try:
            answer = self._connections.exchange(request)
        except (ConnectionError, HTTPClientError) as error:
            return _Outcome(failure=error)
        if (parsed := _plain(answer)) is not None:
            return _Outcome(answer=answer, parsed=parsed, done=True)
        return _Outcome(answer=answer, parsed=self._parse(answer))

    def _request(self, body: bytes) -> bytes:
        headers = self._signer.signed(self._headers, body) | self._more_headers
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        head = f"POST / HTTP/1.1\r\n{''.join(lines)}content-length: {len(body)}\r\n\r\n"
        if head.count("\n") != len(lines) + 3:
            # http.client's check. A secret of Kubernetes often ends in a line break.
            raise HTTPClientError(error="a header has a line break: look at the credentials' variables")
        return head.encode() + body

    def _parse(self, answer: Answer) -> dict[str, Any]:
        """Parse an answer as botocore does, with the fields that the model gives an error."""
        response = {
            "headers": HeadersDict(answer.headers),
            "status_code": answer.status_code,
            "body": answer.content,
            "context": {"operation_name": self._model.name},
        }
        parser = create_parser("json")
        parsed: dict[str, Any] = parser.parse(response, self._model.output_shape)
        if code := parsed.get("Error", {}).get("Code"):
            shape = self._service.shape_for_error_code(code)
            parsed |= parser.parse(response, shape) if shape else {}
        return parsed

    def _wait_for_retry(self, outcome: _Outcome, attempt: int, context: dict[str, Any]) -> bool:
        """Ask botocore whether to try again; wait as long as it says."""
        delay = first_non_none_response(
            self._client.meta.events.emit(
                f"needs-retry.{self._event}",
                response=None if outcome.failure else (outcome.answer, outcome.parsed),
                endpoint=None,
                operation=self._model,
                attempts=attempt,
                caught_exception=outcome.failure,
                request_dict={"context": context},
            )
        )
        if delay is None or delay is False:
            return False
        time.sleep(delay)
        return True

    def _result(self, outcome: _Outcome, retries: int, context: dict[str, Any]) -> dict[str, Any]:
        if outcome.failure or outcome.answer is None or outcome.parsed is None:
            raise outcome.failure or HTTPClientError(error="no answer")
        # Gives botocore's quota of retries back.
        self._client.meta.events.emit(
            f"after-call.{self._event}",
            http_response=outcome.answer,
            parsed=outcome.parsed,
            model=self._model,
            context=context,
        )
        if outcome.answer.status_code >= 300:
            outcome.parsed["ResponseMetadata"]["RetryAttempts"] = retries
            code = context.get("error_code_override") or outcome.parsed.get("Error", {}).get("Code")
            raise self._client.exceptions.from_code(code)(outcome.parsed, self._model.name)
        return outcome.parsed


def _plain(answer: Answer) -> dict[str, Any] | None:
    """Return the fields of a plain answer as botocore does; None if there is more to decide."""
    if answer.status_code != 200 or not _is_intact(answer):
        return None
    content = answer.content or b"{}"
    try:
        # The hook takes a call for each object, and most answers have nothing for it.
        fields = json.loads(content, object_hook=_from_json if _needs_hook(content) else None)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _is_intact(answer: Answer) -> bool:
    """Whether the body is what DynamoDB sent; SQS sends no checksum."""
    checksum = answer.headers.get("x-amz-crc32")
    return checksum is None or zlib.crc32(answer.content) == int(checksum)


def _needs_hook(content: bytes) -> bool:
    return b"null" in content or b'"B"' in content


def _from_json(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out nulls, and decode the binary value of an attribute in DynamoDB."""
    if isinstance(binary := fields.get("B"), str):
        return {"B": base64.b64decode(binary)}
    return {name: value for name, value in fields.items() if value is not None}


def _base64(value: object) -> str:
    """Encode a binary value."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"a request cannot hold {type(value).__name__}")
