"""HTTP answers are read as http.client reads them, however the bytes arrive."""

import http.client
import io
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.aws.answers import MAX_HEAD, read_answer


def receiver(data: bytes, sizes: Iterator[int] | None = None) -> Callable[[int], bytes]:
    """Return a socket's ``recv`` for these bytes, in pieces of these sizes."""
    source = io.BytesIO(data)
    return lambda most: source.read(min(most, next(sizes, most)) if sizes else most)


class _Socket:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        + b"0\r\nx-trailer: 1\r\n\r\n"
    )


@given(
    body=st.binary(max_size=300),
    status=st.sampled_from([200, 204, 400, 503]),
    framing=st.sampled_from(["length", "chunked", "close"]),
    informational=st.booleans(),
    sizes=st.lists(st.integers(1, 50), max_size=80),
)
def test_an_answer_is_what_http_client_reads(
    body: bytes, status: int, framing: str, informational: bool, sizes: list[int]
) -> None:
    """Any body, framing and division into pieces."""
    head, framed = {
        "length": (b"Content-Length: %d" % len(body), body),
        "chunked": (b"Transfer-Encoding: chunked", chunked(body, 7)),
        "close": (b"Connection: close", body),
    }[framing]
    if status == 204:
        head, framed = b"Content-Length: 0", b""
    data = b"HTTP/1.1 100 Continue\r\n\r\n" if informational else b""
    data += b"HTTP/1.1 %d Some Reason\r\nX-Amzn-RequestId:  r-1\r\n%b\r\n\r\n%b" % (status, head, framed)
    answer, kept = read_answer(receiver(data, iter(sizes)))
    expected = http.client.HTTPResponse(_Socket(data))  # type: ignore[arg-type]
    expected.begin()
    assert (answer.status_code, answer.content) == (expected.status, expected.read())
    assert answer.headers["x-amzn-requestid"] == expected.headers["x-amzn-requestid"] == "r-1"
    assert kept == (framing != "close" or status == 204)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}surplus",
    ],
)
def test_a_connection_is_not_kept_if_the_server_ends_it_or_sends_more(data: bytes) -> None:
    """The next answer would be another one's, or none."""
    answer, kept = read_answer(receiver(data))
    assert (answer.content, kept) == (b"{}", False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_an_answer_that_ends_too_early_is_a_lost_connection(data: bytes) -> None:
    """A cut body is never taken for a whole one."""
    with pytest.raises(ConnectionError):
        read_answer(receiver(data))


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 2 * MAX_HEAD,
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    """Another protocol, a wrong length, a head without end."""
    with pytest.raises(ValueError):  # noqa: PT011 - int() words its own
        read_answer(receiver(data))
