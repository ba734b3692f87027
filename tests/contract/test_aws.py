"""Lean calls do what botocore's own do: one suite compares them, request by request."""

import json
import os
import signal
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import trustme
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    SSLError,
)

from pipeline.aws import connections
from pipeline.aws.client import LeanClient, make_client
from pipeline.jobs.dynamodb import FREQUENT as OF_DYNAMODB
from pipeline.jobs.dynamodb import dynamodb_client
from pipeline.sqs.client import FREQUENT as OF_SQS
from pipeline.telemetry import metrics
from tests.answering import AnsweringServer, Reply
from tests.processes import wait_until

#: Seconds that an answer may take, and where none comes.
READ_TIMEOUT, SHORT = 30.0, 0.3

#: Headers that differ from call to call, or that only botocore sends.
VOLATILE = ("authorization", "x-amz-date", "amz-sdk-invocation-id", "amz-sdk-request")

QUEUE = "https://sqs.eu-west-1.amazonaws.com/1/tasks.fifo"


def send(client: Any) -> Any:
    """Send one message."""
    entry = {
        "Id": "0",
        "MessageBody": "größer \u2028 \x7f",
        "MessageGroupId": "g",
        "MessageDeduplicationId": "d",
    }
    return client.send_message_batch(QueueUrl=QUEUE, Entries=[entry])


def update(client: Any) -> Any:
    """Update an item, with a binary value."""
    values = {":0": {"B": b"\x00\xff"}, ":1": {"NS": ["1", "2"]}}
    return client.update_item(TableName="t", Key={"pk": {"S": "a"}}, ExpressionAttributeValues=values)


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # ``make`` sets addresses.
    with patch.dict(os.environ):
        yield


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits before retries, which take no time here."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def make(
    url: str, service: Any = "sqs", *, lean: bool = True, attempts: int = 3, within: float = READ_TIMEOUT
) -> Any:
    """Make a client of a server, with lean calls or without."""
    os.environ[f"AWS_ENDPOINT_URL_{service.upper()}"] = url
    frequent = OF_SQS if service == "sqs" else OF_DYNAMODB
    return make_client(
        service,
        frequent if lean else (),
        connect_timeout=READ_TIMEOUT,
        read_timeout=within,
        attempts=attempts,
        connections=8,
    )


@dataclass(kw_only=True)
class Seen:
    """The results of some calls, and their requests."""

    results: list[Any]
    requests: list[tuple[dict[str, str], bytes]]
    waits: int


def run(
    script: Sequence[Reply], call: Callable[[Any], Any], waits: list[float], *, lean: bool, calls: int
) -> Seen:
    """Call some times and note everything."""
    waits.clear()
    service = "sqs" if call is send else "dynamodb"
    with AnsweringServer(script).running() as server:
        within = SHORT if script[0].silent else READ_TIMEOUT
        client = make(server.url, service, lean=lean, attempts=3 if call is send else 4, within=within)
        results = [_result(lambda: call(client), server.url) for _ in range(calls)]
        tries = calls + len(waits)
        # The server may read a request after its client has given up.
        wait_until(lambda: len(server.asked) >= tries, "every request")
        asked = [
            (
                {name: text for name, text in each.headers.items() if name not in (*VOLATILE, "host")},
                each.body,
            )
            for each in server.asked
        ]
    return Seen(results=results, requests=asked, waits=tries - calls)


def _result(call: Callable[[], Any], url: str) -> Any:
    try:
        answer = call()
    except ClientError as error:
        details = dict(error.response)
        details.pop("ResponseMetadata", None)
        metadata: Any = error.response["ResponseMetadata"]
        ids = metadata.get("HTTPStatusCode"), metadata.get("RequestId")
        return type(error).__name__, str(error), details, ids
    except BotoCoreError as error:
        return type(error), str(error).replace(url, "URL")
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


def error(code: str, status: int = 400, **fields: Any) -> Reply:
    """An answer that is an error of DynamoDB or SQS."""
    content = {"__type": f"com.amazonaws.any#{code}", "message": "why", **fields}
    return Reply(status=status, body=json.dumps(content).encode(), headers={"x-amzn-RequestId": "r-1"})


def summed(body: bytes, checksum: int | None = None) -> Reply:
    """An answer with DynamoDB's checksum, or a wrong one."""
    return Reply(body=body, headers={"x-amz-crc32": str(zlib.crc32(body) if checksum is None else checksum)})


OK = Reply(body=b'{"Successful": [{"Id": "0"}], "Failed": null}')
ITEM = (
    b'{"Attributes": {"pk": {"S": "a"}, "b": {"B": "AP8="}, "m": {"M": {"B": {"S": "x"}}}, '
    b'"n": {"NULL": true}, "l": {"L": [{"N": "1"}]}}, "ItemCollectionMetrics": null}'
)
PAGE = Reply(status=503, body=b"<html>unavailable</html>", headers={"Content-Type": "text/html"})

SCRIPTS: dict[str, tuple[Callable[[Any], Any], list[Reply]]] = {
    "an answer": (send, [OK]),
    "an answer in chunks": (
        send,
        [
            Reply(
                body=b"2\r\n{}\r\n0\r\n\r\n", headers={"Transfer-Encoding": "chunked", "Content-Length": "0"}
            )
        ],
    ),
    "no body": (send, [Reply(body=b"")]),
    "an item": (update, [summed(ITEM)]),
    "a wrong checksum once": (update, [summed(ITEM, 7), summed(ITEM)]),
    "wrong checksums": (update, [summed(ITEM, 7)]),
    "not JSON": (send, [Reply(body=b"<html>")]),
    "a balancer's page once": (send, [PAGE, OK]),
    "a balancer's page": (update, [PAGE]),
    "an error of the server": (send, [error("InternalFailure", 500)]),
    "throttled once": (send, [error("RequestThrottled"), OK]),
    "throttled": (update, [error("ProvisionedThroughputExceededException")]),
    "throttled without a word": (send, [Reply(status=429, body=b""), OK]),
    "told when to come back": (send, [replace(PAGE, headers={"x-amz-retry-after": "1500"}), OK]),
    "a condition that fails": (
        update,
        [error("ConditionalCheckFailedException", Item={"pk": {"S": "a"}, "b": {"B": "AP8="}})],
    ),
    "expired credentials": (update, [error("ExpiredTokenException", 400)]),
    "expired credentials at SQS": (send, [error("ExpiredToken", 403)]),
    "no such queue": (
        send,
        [
            replace(
                error("QueueDoesNotExist"),
                headers={
                    "x-amzn-query-error": "AWS.SimpleQueueService.NonExistentQueue;Sender",
                    "x-amzn-RequestId": "r-2",
                },
            )
        ],
    ),
    "refused without a word": (send, [Reply(status=403, body=b"")]),
    "moved": (send, [Reply(status=301, body=b"", headers={"Location": "http://127.0.0.1:9/"})]),
    "cut before an answer": (send, [Reply(cut_at=0)]),
    "cut once": (update, [Reply(cut_at=0), summed(ITEM)]),
    "silence": (send, [Reply(silent=True)]),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_lean_call_does_what_botocores_own_does(name: str, waits: list[float]) -> None:
    """The same results, errors, retries and requests, byte for byte but for the signature."""
    call, script = SCRIPTS[name]
    expected = run(script, call, waits, lean=False, calls=2)
    assert run(script, call, waits, lean=True, calls=2) == expected
    assert len(expected.requests) >= 2


@pytest.mark.parametrize("call", [send, update])
def test_retries_end_when_the_quota_is_used_up(call: Callable[[Any], Any], waits: list[float]) -> None:
    """A service that is down gets fewer tries, and its first answers give tries back, as with botocore."""
    script = [PAGE] * 200 + [OK] * 20 + [PAGE] * 40
    expected = run(script, call, waits, lean=False, calls=90)
    assert run(script, call, waits, lean=True, calls=90) == expected
    assert len(expected.requests) < 3 * 90


def throttled() -> dict[tuple[str, str], float]:
    """The count of throttled requests, by operation and reason."""
    return {
        (sample.labels["operation"], sample.labels["reason"]): sample.value
        for family in metrics.THROTTLED.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


@pytest.mark.parametrize("path", ["", "/path"], ids=["lean", "botocore's own"])
def test_throttled_tries_are_counted_by_their_reasons(
    path: str, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try, also one after which the next succeeds; without a reason the error's code is one."""
    code, arn = "ProvisionedThroughputExceededException", "arn:aws:dynamodb:eu-west-1:1:table/jobs"
    hot = [
        {"reason": "IndexWriteKeyRangeThroughputExceeded", "resource": f"{arn}/index/jobs-by-time"},
        {"reason": "TableWriteAccountLimitExceeded", "resource": arn},
    ]
    script = [
        error(code, ThrottlingReasons=hot),
        error("ThrottlingException", throttlingReasons=hot[:1]),
        error("ConditionalCheckFailedException"),
        error(code),
        PAGE,
        summed(ITEM),
    ]
    before = throttled()
    with AnsweringServer(script).running() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", server.url + path)
        client = dynamodb_client()
        with pytest.raises(ClientError):
            update(client)
        update(client)
    counted = {key: value - before.get(key, 0) for key, value in throttled().items()}
    assert {key: value for key, value in counted.items() if value} == {
        ("UpdateItem", "IndexWriteKeyRangeThroughputExceeded"): 2,
        ("UpdateItem", "TableWriteAccountLimitExceeded"): 1,
        ("UpdateItem", code): 1,
    }


def test_the_process_s_client_counts_the_units_of_its_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write asks for them, of table and index."""
    told = {
        "Table": {"CapacityUnits": 1.0},
        "GlobalSecondaryIndexes": {"jobs-by-time": {"CapacityUnits": 2.0}},
    }
    script = [summed(json.dumps({"ConsumedCapacity": told}).encode())]
    units = partial(metrics.REGISTRY.get_sample_value, "pipeline_table_write_units_total")
    before = [units({"resource": each}) or 0 for each in ("table", "jobs-by-time")]
    with AnsweringServer(script).running() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", server.url)
        update(dynamodb_client())
        assert json.loads(server.asked[0].body)["ReturnConsumedCapacity"] == "INDEXES"
    assert [units({"resource": each}) for each in ("table", "jobs-by-time")] == [before[0] + 1, before[1] + 2]


def test_one_try_is_one_request(waits: list[float]) -> None:
    """A client that ends early does not repeat."""
    with AnsweringServer([PAGE]).running() as server:
        with pytest.raises(ClientError):
            send(make(server.url, attempts=1))
        assert (len(server.asked), waits) == (1, [])


def test_nobody_at_the_address(waits: list[float]) -> None:
    """The same error as botocore's, after as many tries."""
    with AnsweringServer([OK]).running() as server:
        url = server.url
    lean, own = (_result(partial(send, make(url, lean=lean)), url) for lean in (True, False))
    assert lean == own
    assert len(waits) == 4


@pytest.mark.parametrize("cut_at", [20, 60])
def test_an_answer_that_was_cut_is_asked_for_again(cut_at: int, waits: list[float]) -> None:
    """Within the head, which botocore takes for an empty answer, and within the body."""
    with AnsweringServer([replace(OK, cut_at=cut_at), OK]).running() as server:
        assert send(make(server.url)) == {"Successful": [{"Id": "0"}]}
        assert (len(server.asked), len(waits)) == (2, 1)


def test_a_connection_is_used_again() -> None:
    """By calls of any operation, one after the other."""
    with AnsweringServer([Reply()]).running() as server:
        client = make(server.url)
        for _ in range(5):
            send(client)
            client.receive_message(QueueUrl=QUEUE)
        assert (len(server.asked), server.connections) == (10, 1)


def test_a_connection_that_the_server_ended_is_replaced(waits: list[float]) -> None:
    """Servers end idle connections; that is no failure, also for a client of one try."""
    with AnsweringServer([Reply()]).running() as server:
        client = make(server.url, attempts=1)
        send(client)
        server.end_connections()
        send(client)
        assert (server.connections, waits) == (2, [])


def test_a_connection_is_not_used_after_a_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A NAT gateway may have forgotten it."""
    with AnsweringServer([Reply()]).running() as server:
        client = make(server.url)
        send(client)
        monkeypatch.setattr(connections, "IDLE_SECONDS", 0)
        send(client)
        assert server.connections == 2


def test_threads_get_their_own_answers() -> None:
    """Each thread has a connection while it calls, and no more are kept than allowed."""
    with AnsweringServer([Reply()]).running() as server:
        client = make(server.url, "dynamodb")
        server.echo = True
        with ThreadPoolExecutor(16) as pool:
            answers = pool.map(lambda n: client.get_item(TableName=str(n)), range(400))
            assert [answer["TableName"] for answer in answers] == [str(n) for n in range(400)]
        assert 1 <= server.connections <= 400


def test_a_call_that_is_interrupted_leaves_no_answer_behind() -> None:
    """A soft time limit raises anywhere; the next call gets its own answer."""
    late = Reply(body=b'{"late": "1"}', delay=5)

    class Limit(BaseException):
        """As Celery's, no error of a connection."""

    def limit(*_: object) -> None:
        raise Limit

    def interrupt(server: AnsweringServer) -> None:
        wait_until(lambda: server.asked, "a request")
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, limit)
    try:
        with AnsweringServer([late, OK]).running() as server:
            client = make(server.url)
            timer = threading.Thread(target=interrupt, args=(server,))
            timer.start()
            with pytest.raises(Limit):
                send(client)
            timer.join()
            assert send(client) == {"Successful": [{"Id": "0"}]}
            assert server.connections == 2
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_role_s_new_credentials_sign_the_next_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore asks for them before they expire; where it cannot, the call fails as botocore's own."""
    config, credentials = tmp_path / "config", tmp_path / "credentials.json"
    config.write_text(f"[default]\ncredential_process = cat {credentials}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    soon = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    content = {"Version": 1, "SecretAccessKey": "s", "Expiration": soon}

    def issue(name: str) -> None:
        credentials.write_text(json.dumps(content | {"AccessKeyId": name, "SessionToken": f"{name}-token"}))

    with AnsweringServer([OK]).running() as server:
        issue("first")
        client = make(server.url)
        for name in ("first", "second"):
            issue(name)
            send(client)
            headers = server.asked[-1].headers
            assert f"Credential={name}/" in headers["authorization"]
            assert headers["x-amz-security-token"] == f"{name}-token"
        credentials.unlink()
        with pytest.raises(CredentialRetrievalError):
            send(client)
        assert isinstance(client, LeanClient)


def test_credentials_with_a_line_break_fail_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    """A secret of Kubernetes often ends in one. The error says where to look."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token\r\nx-evil: 1")
    with AnsweringServer([OK]).running() as server:
        with pytest.raises(HTTPClientError, match="line break"):
            send(make(server.url))
        assert not server.asked


@pytest.mark.parametrize(
    ("variables", "path", "lean"),
    [
        ({}, "", True),
        ({}, "/", True),
        ({}, "/base", False),
        ({"HTTP_PROXY": "http://127.0.0.1:1"}, "", False),
        ({"http_proxy": "http://127.0.0.1:1", "NO_PROXY": "127.0.0.1"}, "", True),
        ({"HTTPS_PROXY": "http://127.0.0.1:1"}, "", True),
    ],
)
def test_botocore_makes_the_calls_where_the_way_is_not_direct(
    variables: dict[str, str], path: str, lean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy of the URL's scheme, and where the endpoint has a path."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert isinstance(make(f"http://127.0.0.1:9{path}"), LeanClient) is lean


def test_rare_calls_are_botocores_own() -> None:
    """With the same client, its events and its facts."""
    with AnsweringServer([Reply(body=b'{"QueueUrls": ["a"]}')]).running() as server:
        client = make(server.url)
        assert client.list_queues()["QueueUrls"] == ["a"]
        assert client.meta.endpoint_url == server.url


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_authority_of_ones_own_is_trusted_where_botocore_trusts_it(
    variable: str, version: ssl.TLSVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both variables; the connection is used again, whatever the server sends after a handshake."""
    authority, bundle = trustme.CA(), tmp_path / "ca.pem"
    monkeypatch.setenv(variable, str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with AnsweringServer([OK], context).running() as server:
        client = make(server.url, attempts=1)
        with pytest.raises(SSLError):
            send(client)
        # Read at each connection: certificates may be replaced at any time.
        authority.cert_pem.write_to_path(str(bundle))
        for _ in range(4):
            assert send(client) == {"Successful": [{"Id": "0"}]}
        assert len(server.asked) == 4
        assert server.connections <= 2
