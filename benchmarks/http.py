"""A parser of HTTP/1.1 messages in a stream of bytes, enough to count requests: no trailers."""

from dataclasses import dataclass, field

_END_OF_HEADERS = b"\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Message:
    """One request or answer."""

    #: Request line or status line.
    first_line: str
    #: Values by name in lower case.
    headers: dict[str, str]
    #: Empty when the stream does not keep bodies.
    body: bytes

    @property
    def target(self) -> str:
        """The operation as AWS names it (``AmazonSQS.ReceiveMessage``); otherwise the request line."""
        return self.headers.get("x-amz-target") or self.first_line.rpartition(" ")[0]


@dataclass(kw_only=True)
class Stream:
    """One direction of a connection, fed piece by piece."""

    keep_bodies: bool = False
    _buffer: bytearray = field(default_factory=bytearray)
    _head: tuple[str, dict[str, str]] | None = None
    #: Bytes of the body still to come; None: the body comes in chunks.
    _left: int | None = 0
    _body: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Message]:
        """Parse more bytes; return the messages that they complete."""
        self._buffer += data
        found = []
        while (message := self._next()) is not None:
            found.append(message)
        return found

    def _next(self) -> Message | None:
        if self._head is None and not self._read_head():
            return None
        ended = self._read_chunks() if self._left is None else self._read_body(self._left)
        if not ended or self._head is None:
            return None
        (first_line, headers), body = self._head, bytes(self._body)
        self._head, self._left = None, 0
        self._body.clear()
        return Message(first_line=first_line, headers=headers, body=body)

    def _read_head(self) -> bool:
        end = self._buffer.find(_END_OF_HEADERS)
        if end < 0:
            return False
        first_line, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        del self._buffer[: end + len(_END_OF_HEADERS)]
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._left = None if chunked else int(headers.get("content-length", 0))
        self._head = first_line, headers
        return True

    def _read_body(self, left: int) -> bool:
        taken = min(left, len(self._buffer))
        if self.keep_bodies:
            self._body += self._buffer[:taken]
        del self._buffer[:taken]
        self._left = left - taken
        return self._left == 0

    def _read_chunks(self) -> bool:
        """Parse chunks: each is its size in hexadecimal, a line end, its bytes, a line end."""
        while (line := self._buffer.find(b"\r\n")) >= 0:
            size = int(bytes(self._buffer[:line]).split(b";")[0], 16)
            end = line + 2 + size + 2
            if len(self._buffer) < end:
                return False
            if self.keep_bodies:
                self._body += self._buffer[line + 2 : line + 2 + size]
            del self._buffer[:end]
            if size == 0:
                return True
        return False
