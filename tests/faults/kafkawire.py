"""A wire between a client and Kafka that loses answers to requests, or what these ask; all else passes."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

#: Kafka's numbers of requests.
FETCH, OFFSET_COMMIT = 1, 8


class KafkaWire:
    """Forwards connections to a broker that advertises the wire's own address."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        host, port = self._listener.getsockname()
        #: Where clients connect.
        self.address = f"{host}:{port}"
        #: Where the broker listens.
        self.target: tuple[str, int] = ("", 0)
        #: How many answers were lost.
        self.lost = 0
        #: How many fetches asked less than the client did.
        self.withheld = 0
        self._losing: int | None = None
        #: The id of a topic, and the connections on which it is not fetched.
        self._unfetched: tuple[bytes, frozenset[socket.socket]] = b"", frozenset()
        self._connections: set[socket.socket] = set()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Forward while the block runs."""
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield
        finally:
            for each in (self._listener, *self._connections):
                # What waits in accept or recv ends when the socket is shut down, not when it is closed.
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            self._listener.close()

    @contextlib.contextmanager
    def losing(self, request: int) -> Iterator[None]:
        """Lose the answers to one kind of request while the block runs; the broker does what they ask."""
        self._losing = request
        try:
            yield
        finally:
            self._losing = None

    @contextlib.contextmanager
    def unfetched(self, topic_id: bytes) -> Iterator[None]:
        """Fetch nothing of a topic while the block runs, on the connections that there are at its start.

        The client sees no error, and gets all else: as if it had forgotten who leads the topic's partitions.
        """
        self._unfetched = topic_id, frozenset(self._connections)
        try:
            yield
        finally:
            self._unfetched = b"", frozenset()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        #: The request of each correlation id.
        asked: dict[int, int] = {}
        with client, contextlib.suppress(OSError), socket.create_connection(self.target) as broker:
            pair = {client, broker}
            self._connections |= pair
            back = threading.Thread(target=self._answers, args=(broker, client, asked), daemon=True)
            back.start()
            self._requests(client, broker, asked)
            back.join()
            self._connections -= pair

    def _requests(self, client: socket.socket, broker: socket.socket, asked: dict[int, int]) -> None:
        with _ending(client, broker):
            while True:
                message = _read(client)
                request, _, number = struct.unpack_from(">hhi", message, 4)
                asked[number] = request
                topic_id, connections = self._unfetched
                if request == FETCH and client in connections:
                    less = _without(topic_id, message)
                    self.withheld += less != message
                    message = less
                broker.sendall(message)

    def _answers(self, broker: socket.socket, client: socket.socket, asked: dict[int, int]) -> None:
        with _ending(client, broker):
            while True:
                message = _read(broker)
                (number,) = struct.unpack_from(">i", message, 4)
                if asked.pop(number) == self._losing:
                    self.lost += 1
                else:
                    client.sendall(message)


@contextlib.contextmanager
def _ending(*sockets: socket.socket) -> Iterator[None]:
    """When one side of a connection ends, end both."""
    try:
        with contextlib.suppress(OSError):
            yield
    finally:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _without(topic_id: bytes, fetch: bytes) -> bytes:
    """Return a Fetch request, size in front, that does not ask for one topic."""
    version, client_id = struct.unpack_from(">h4xh", fetch, 6)
    # Topics have ids from 13 on; 17 adds fields to their partitions.
    assert 13 <= version < 17, version
    # Before the topics: size, number, version, correlation, client id, no tags; then limits and a session.
    begin = 14 + client_id + 1 + (21 if version >= 15 else 25)
    count, at = _compact(fetch, begin)
    kept = []
    for _ in range(count):
        partitions, end = _compact(fetch, at + len(topic_id))
        # Of a partition: number, epoch, offset, epoch, offset, limit, no tags; then no tags of the topic.
        end += partitions * 33 + 1
        if not fetch.startswith(topic_id, at):
            kept.append(fetch[at:end])
        at = end
    assert len(kept) < 127
    message = fetch[4:begin] + bytes([len(kept) + 1]) + b"".join(kept) + fetch[at:]
    return struct.pack(">i", len(message)) + message


def _compact(message: bytes, at: int) -> tuple[int, int]:
    """Return the length of a compact array, which is stored as one more, and where its items begin."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return number - 1, at


def _read(source: socket.socket) -> bytes:
    """Return one message with its size in front."""
    size = _read_exactly(source, 4)
    return size + _read_exactly(source, struct.unpack(">i", size)[0])


def _read_exactly(source: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = source.recv(size)
        if not part:
            raise ConnectionError("The other side ended the connection")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
