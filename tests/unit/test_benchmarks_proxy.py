"""The proxy of the benchmarks: it takes HTTP apart, delays, counts, and adds up write units."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.http import Stream
from benchmarks.proxy import run_proxy
from benchmarks.units import item_size, write_units

REQUEST = b"POST / HTTP/1.1\r\nX-Amz-Target: AmazonSQS.%s\r\nContent-Length: %d\r\n\r\n%s"


def _request(operation: bytes, body: bytes) -> bytes:
    return REQUEST % (operation, len(body), body)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_requests_are_found_however_they_are_cut(size: int) -> None:
    """TCP cuts where it likes; a body that looks like a request is none."""
    sent = _request(b"SendMessage", REQUEST % (b"Inner", 0, b"")) + _request(b"ReceiveMessage", b"")
    stream = Stream()
    found = [m for at in range(0, len(sent), size) for m in stream.feed(sent[at : at + size])]
    assert [message.target for message in found] == ["AmazonSQS.SendMessage", "AmazonSQS.ReceiveMessage"]


def test_a_body_in_chunks_is_put_together() -> None:
    """An answer of unknown length comes in chunks."""
    sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    stream = Stream(keep_bodies=True)
    found = [message for byte in sent for message in stream.feed(bytes([byte]))]
    assert [message.body for message in found] == [b"abcde"]


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as echo:
        thread = threading.Thread(target=echo.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{echo.server_port}"
        echo.shutdown()
        thread.join()


def test_the_proxy_delays_counts_and_changes_nothing(server: str) -> None:
    """Each exchange takes at least the round trip, arrives whole, and is counted under its target."""
    body = bytes(range(256)) * 4000
    with run_proxy({"sqs": server}, 40) as proxy:
        address = proxy.urls["sqs"].removeprefix("http://")
        with closing(http.client.HTTPConnection(address)) as connection:
            for _ in range(3):
                began = time.monotonic()
                connection.request("POST", "/", body, {"X-Amz-Target": "AmazonSQS.SendMessage"})
                assert connection.getresponse().read() == body
                assert time.monotonic() - began >= 0.04
        assert proxy.counts()["sqs"].requests == {"AmazonSQS.SendMessage": 3}


def test_a_server_can_be_away_for_a_while(server: str) -> None:
    """Down ends and refuses connections; up lets them in again at the same address."""
    with run_proxy({"sqs": server}, 0) as proxy:
        address = proxy.urls["sqs"].removeprefix("http://")
        with closing(http.client.HTTPConnection(address)) as connection:
            assert _exchange(connection) == b"2"
            proxy.down("sqs")
            with pytest.raises(OSError, match=r"closed|reset|Broken"):
                _exchange(connection)
        with (
            closing(http.client.HTTPConnection(address)) as connection,
            pytest.raises(ConnectionRefusedError),
        ):
            _exchange(connection)
        proxy.up("sqs")
        with closing(http.client.HTTPConnection(address)) as connection:
            assert _exchange(connection) == b"2"


def _exchange(connection: http.client.HTTPConnection) -> bytes:
    connection.request("POST", "/", b"2")
    return connection.getresponse().read()


# ─── Write units ───


def _item(key: str, size: int, **more: dict[str, str]) -> dict[str, dict[str, str]]:
    bare = {"pk": {"S": key}, "data": {"S": ""}, **more}
    return {**bare, "data": {"S": "x" * (size - item_size(bare))}}


def _units(operation: str, request: object, answer: object) -> dict[str, float]:
    counted = write_units(
        f"DynamoDB_20120810.{operation}", json.dumps(request).encode(), json.dumps(answer).encode()
    )
    return {str(kind): units for kind, units in counted.items()}


def test_a_write_costs_a_unit_for_each_started_kilobyte() -> None:
    """The whole item counts, names included."""
    assert _units("PutItem", {"Item": _item("s/J#1", 1024)}, {}) == {"record": 1}
    assert _units("PutItem", {"Item": _item("s/J#1", 1025)}, {}) == {"record": 2}


def test_an_update_costs_what_the_whole_item_is() -> None:
    """However little of it is changed; an entry of the index that moves costs two more."""
    request = {"Key": {"pk": {"S": "s/L#1"}}, "ExpressionAttributeNames": {"#0": "d"}}
    assert _units("UpdateItem", request, {"Attributes": _item("s/L#1", 3000)}) == {"record": 3}
    moves = {**request, "ExpressionAttributeNames": {"#0": "isk"}}
    assert _units("UpdateItem", moves, {"Attributes": _item("s/L#1", 100)}) == {"record": 3}


def test_results_are_counted_beside_the_records() -> None:
    """A part's result is the user's data; it is told apart by its key."""
    items = [_item("s/R#split#0", 2000), _item("s/J#1", 100, isk={"S": "now"})]
    statements = [
        {"Statement": "INSERT INTO t VALUE {'pk': ?, 'data': ?}", "Parameters": list(items[0].values())},
        {
            "Statement": "INSERT INTO t VALUE {'pk': ?, 'data': ?, 'isk': ?}",
            "Parameters": list(items[1].values()),
        },
    ]
    answer = {"Responses": [{}, {"Error": {"Code": "DuplicateItem"}}]}
    assert _units("BatchExecuteStatement", {"Statements": statements}, answer) == {"result": 2, "record": 1}
    update = {
        "Statement": 'UPDATE "t" SET "isk" = ? WHERE "pk" = ? AND "closed_at" IS MISSING',
        "Parameters": [{"S": "now"}, {"S": "s/J#1"}],
    }
    assert _units("BatchExecuteStatement", {"Statements": [update, update]}, answer) == {"record": 4}
    batch = {"RequestItems": {"t": [{"PutRequest": {"Item": items[1]}}]}}
    assert _units("BatchWriteItem", batch, {}) == {"record": 2}


def test_a_read_costs_no_write_units() -> None:
    """Only writes are counted."""
    assert _units("GetItem", {"Key": {"pk": {"S": "a"}}}, {}) == {}


def test_the_size_of_an_item_is_that_of_the_developer_guide() -> None:
    """Names and values in UTF-8; numbers a byte for two digits and one; containers three and one for each."""
    assert item_size({"ä": {"S": "é"}}) == 2 + 2
    assert item_size({"n": {"N": "-12.345"}}) == 1 + 4
    assert item_size({"s": {"NS": ["1", "200"]}}) == 1 + 2 + 3
    assert item_size({"l": {"L": [{"S": "ab"}, {"BOOL": True}]}}) == 1 + 3 + (1 + 2) + (1 + 1)
    assert item_size({"m": {"M": {"k": {"S": "v"}}}}) == 1 + 3 + (1 + 1 + 1)
