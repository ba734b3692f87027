"""A wire between a client and Kafka that loses answers to chosen requests; all else passes."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

#: Kafka's number of the request OffsetCommit.
OFFSET_COMMIT = 8


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
        self._losing: int | None = None
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
