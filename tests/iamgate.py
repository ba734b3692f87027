"""A gate before SQS, DynamoDB and S3 that enforces an IAM policy, and remembers what was asked.

It evaluates what the policies of this project use: Allow, exact actions, ARNs and two condition operators. An
operator or a key that it does not know is an error, not a grant.
"""

import fnmatch
import http.client
import json
import re
import ssl
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.services.environment import ACCOUNT

#: The action that AWS asks for where it is not named as the call (Actions, resources and condition keys for
#: Amazon SQS and Amazon DynamoDB, service authorization reference).
ACTIONS = {
    "SendMessageBatch": "SendMessage",
    "DeleteMessageBatch": "DeleteMessage",
    "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
}

#: The actions of BatchExecuteStatement, by the verb of a statement.
STATEMENTS = {"INSERT": "PartiQLInsert", "UPDATE": "PartiQLUpdate"}

_TABLE = re.compile(r'(?:INSERT INTO|UPDATE) "([^"]+)"')

#: The place of the partition key among a statement's parameters (pipeline.jobs.expressions).
_PK_AT = {
    "INSERT": (re.compile(r"VALUE \{'pk': \?"), 0),
    "UPDATE": (re.compile(r'WHERE "pk" = \? AND "sk" = \? AND [^?]*$'), -2),
}

#: The part of a query's condition that is about the partition key, of table or index.
_HASH_KEY = re.compile(r"(#\w+) = (:\w+)")

#: The condition key with the partition keys that a request names.
LEADING_KEYS = "dynamodb:LeadingKeys"

#: The end of the action's name for each setting of a bucket, by the query of its request (Amazon S3 API
#: reference; service authorization reference for Amazon S3).
BUCKET_SETTINGS = {
    "encryption": "EncryptionConfiguration",
    "lifecycle": "LifecycleConfiguration",
    "policy": "BucketPolicy",
    "publicAccessBlock": "BucketPublicAccessBlock",
}

#: An action and the ARN of what it is done to.
Request = tuple[str, str]

#: Values of a request's condition keys.
Context = Mapping[str, Collection[str]]


def action_of(service: str, operation: str) -> str:
    """The IAM action that a call needs; ``operation`` in the API's own letters."""
    return f"{service}:{ACTIONS.get(operation, operation)}"


def allows(policy: Mapping[str, Any], request: Request, context: Context | None = None) -> bool:
    """Whether a policy allows a request; there is no other way in."""
    action, arn = request
    return any(
        statement["Effect"] == "Allow"
        and action in statement["Action"]
        and any(fnmatch.fnmatchcase(arn, pattern) for pattern in statement["Resource"])
        and _holds(statement.get("Condition", {}), context or {})
        for statement in policy["Statement"]
    )


def _holds(conditions: Mapping[str, Mapping[str, Any]], context: Context) -> bool:
    """Whether all conditions hold (IAM user guide, "Condition operators"): of all operators, all keys."""
    return all(
        _OPERATORS[operator](context.get(key), wanted)
        for operator, keys in conditions.items()
        for key, wanted in keys.items()
    )


def _every_like(values: Collection[str] | None, patterns: Collection[str]) -> bool:
    """True also for a key without values, as at AWS."""
    return all(any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns) for value in values or ())


def _null(values: Collection[str] | None, wanted: str) -> bool:
    return (not values) == (wanted == "true")


_OPERATORS: Mapping[str, Callable[[Collection[str] | None, Any], bool]] = {
    "ForAllValues:StringLike": _every_like,
    "Null": _null,
}


@dataclass
class Gate:
    """One process's way to the services."""

    policy: Mapping[str, Any]
    url: str = ""
    allowed: set[Request] = field(default_factory=set)
    denied: set[Request] = field(default_factory=set)

    def check(self, target: str, body: Mapping[str, Any]) -> Request | None:
        """Remember a request; it, when it is denied."""
        return self._first_denied(_requests(target, body))

    def check_s3(self, method: str, path: str) -> Request | None:
        """Remember a request of S3's; it, when it is denied."""
        return self._first_denied([(_s3_request(method, path), {})])

    def _first_denied(self, requests: Iterable[tuple[Request, Context]]) -> Request | None:
        for request, context in requests:
            (self.allowed if allows(self.policy, request, context) else self.denied).add(request)
            if request in self.denied:
                return request
        return None


def _requests(target: str, body: Mapping[str, Any]) -> Iterator[tuple[Request, Context]]:
    service, operation = target.split(".")
    if service == "AmazonSQS":
        name = body.get("QueueName") or body["QueueUrl"].rsplit("/", 1)[1]
        yield (action_of("sqs", operation), f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"), {}
        return
    if "Statements" in body:
        for statement in body["Statements"]:
            (name,) = _TABLE.findall(statement["Statement"])
            arn = f"arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/{name}"
            yield (
                (action_of("dynamodb", STATEMENTS[_verb(statement)]), arn),
                {LEADING_KEYS: {_pk_of(statement)}},
            )
        return
    names = [body["TableName"]] if "TableName" in body else list(body.get("RequestItems", {}))
    assert names, f"{target}: {body}"
    index = f"/index/{body['IndexName']}" if "IndexName" in body else ""
    context = {LEADING_KEYS: set(_leading_keys(body))}
    for name in names:
        arn = f"arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/{name}{index}"
        yield (action_of("dynamodb", operation), arn), context


def _s3_request(method: str, path: str) -> Request:
    """Return what a request in the path style needs."""
    url = urlsplit(path)
    bucket, _, key = unquote(url.path).lstrip("/").partition("/")
    arn = f"arn:aws:s3:::{bucket}"
    if key:
        return {"GET": "s3:GetObject", "PUT": "s3:PutObject"}[method], f"{arn}/{key}"
    if url.query:
        (setting,) = parse_qs(url.query, keep_blank_values=True)
        return f"s3:{method.capitalize()}{BUCKET_SETTINGS[setting]}", arn
    return {"HEAD": "s3:ListBucket", "PUT": "s3:CreateBucket"}[method], arn


def _leading_keys(body: Mapping[str, Any]) -> Iterator[str]:
    """The partition keys that a request names."""
    keys: list[Mapping[str, Any]] = [body[name] for name in ("Key", "Item") if name in body]
    for request in body.get("RequestItems", {}).values():
        if isinstance(request, Mapping):
            keys += request["Keys"]
        else:
            keys += [part for write in request for each in write.values() for part in each.values()]
    for key in keys:
        yield key["pk"]["S"]
    if "KeyConditionExpression" in body:
        names, values = body["ExpressionAttributeNames"], body["ExpressionAttributeValues"]
        for name, value in _HASH_KEY.findall(body["KeyConditionExpression"]):
            if names[name] in ("pk", "ipk"):
                yield values[value]["S"]


def _verb(statement: Mapping[str, Any]) -> str:
    return str(statement["Statement"].split(" ")[0])


def _pk_of(statement: Mapping[str, Any]) -> str:
    shape, at = _PK_AT[_verb(statement)]
    assert shape.search(statement["Statement"]), statement["Statement"]
    return str(statement["Parameters"][at]["S"])


@contextmanager
def gate(policy: Mapping[str, Any], upstream: str, certificate: Path | None = None) -> Iterator[Gate]:
    """Serve a gate to ``upstream`` (a URL) while the block runs.

    ``certificate``: with its key, in PEM, for a gate that speaks TLS.
    """
    made, server_of = Gate(policy), urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.upstream = http.client.HTTPConnection(server_of, timeout=60)

        def finish(self) -> None:
            self.upstream.close()
            super().finish()

        def do_POST(self) -> None:
            data = self._data()
            denied = made.check(self.headers["X-Amz-Target"], json.loads(data))
            if denied:
                kind = "com.amazonaws.sqs#AccessDeniedException" if denied[0].startswith("sqs") else _DENIED
                message = f"not authorized to perform: {denied[0]} on resource: {denied[1]}"
                self._answer(400, {}, json.dumps({"__type": kind, "message": message}).encode())
                return
            self._forward(data)

        def do_PUT(self) -> None:
            data = self._data()
            if made.check_s3(self.command, self.path):
                self._answer(403, {}, b"" if self.command == "HEAD" else _DENIED_BY_S3)
                return
            self._forward(data)

        do_GET = do_HEAD = do_PUT  # noqa: N815 - as the base class calls them

        def _data(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _forward(self, data: bytes) -> None:
            # This server has answered "Expect: 100-continue" already.
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            self.upstream.request(self.command, self.path, data, headers)
            answer = self.upstream.getresponse()
            self._answer(answer.status, dict(answer.headers), answer.read())

        def _answer(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in (
                    "content-length",
                    "transfer-encoding",
                    "connection",
                    "date",
                    "server",
                ):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # The thread of a connection shakes hands, at its first read.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    made.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_DENIED = "com.amazon.coral.service#AccessDeniedException"
_DENIED_BY_S3 = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
