"""HTTP/1.1 answers, read from a connection: status, headers and body, as RFC 9112 frames them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: The most bytes of an answer's head; AWS's have about 300. http.client allows 64 KiB a line.
MAX_HEAD = 65_536

#: Bytes to ask the connection for at once.
_CHUNK = 65_536

#: Statuses whose answers have no body.
_BODILESS = (204, 304)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, with the attributes that botocore's handlers of events read."""

    status_code: int
    #: Names in lower case.
    headers: Mapping[str, str]
    content: bytes


def read_answer(receive: Callable[[int], bytes]) -> tuple[Answer, bool]:
    """Read one answer with a socket's ``recv``; return it, and whether the connection takes another request.

    Raises ConnectionError if the connection ends too early, ValueError if it is no HTTP/1.1.
    """
    source = _Source(receive)
    version, status, headers = _head(source)
    while 100 <= status < 200:  # informational: the answer follows
        version, status, headers = _head(source)
    if status in _BODILESS:
        content = b""
    elif headers.get("transfer-encoding", "").lower() == "chunked":
        content = _chunked(source)
    elif "content-length" in headers:
        content = source.exactly(_length(headers["content-length"], 10))
    else:
        return Answer(status, headers, source.rest()), False
    kept = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close" and source.is_empty
    return Answer(status, headers, content), kept


class _Source:
    """The bytes of a connection, by delimiter or by number."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._buffer = b""

    @property
    def is_empty(self) -> bool:
        """Whether all bytes that came were read."""
        return not self._buffer

    def until(self, delimiter: bytes) -> bytes:
        """Return the bytes before the next ``delimiter``, and skip it."""
        while (at := self._buffer.find(delimiter)) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise ValueError(f"no end of the head in {MAX_HEAD} bytes")
            self._buffer += self._more()
        found, self._buffer = self._buffer[:at], self._buffer[at + len(delimiter) :]
        return found

    def exactly(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        parts, have = [self._buffer], len(self._buffer)
        while have < count:
            parts.append(self._more())
            have += len(parts[-1])
        found = b"".join(parts)
        self._buffer = found[count:]
        return found[:count]

    def rest(self) -> bytes:
        """Return all bytes until the connection ends."""
        parts = [self._buffer]
        while data := self._receive(_CHUNK):
            parts.append(data)
        return b"".join(parts)

    def _more(self) -> bytes:
        data = self._receive(_CHUNK)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data


def _head(source: _Source) -> tuple[str, int, dict[str, str]]:
    first, *lines = source.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not an HTTP/1.1 answer: {first[:80]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return version, _length(rest[:3], 10), headers


def _chunked(source: _Source) -> bytes:
    parts = []
    while size := _length(source.until(b"\r\n").partition(b";")[0].decode("latin-1"), 16):
        parts.append(source.exactly(size))
        if source.until(b"\r\n"):
            raise ValueError("a chunk is longer than its size")
    while source.until(b"\r\n"):
        pass  # trailers
    return b"".join(parts)


def _length(text: str, base: int) -> int:
    # int() alone also takes signs, blanks and underscores.
    if not text.strip().isalnum():
        raise ValueError(f"not a number: {text[:80]!r}")
    return int(text, base)
