"""Connections to one host, kept for the next request, with botocore's errors."""

import contextlib
import select
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)

from pipeline.aws.answers import Answer, read_answer

#: Seconds that a connection may be idle. NAT gateways forget one after 350 s without a word, and a request
#: on it fails; a new connection also asks for the host's addresses anew.
IDLE_SECONDS = 120.0

_PORTS = {"http": 80, "https": 443}


class Connections:
    """The connections to the host of a URL. Threads may share it; a forked child may not use its parent's."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout: float,
        read_timeout: float,
        limit: int,
        tls: Callable[[], ssl.SSLContext],
    ) -> None:
        """``limit``: how many are kept when idle.

        ``tls`` is called for each connection to an https URL: certificates may be replaced at any time.
        """
        parts = urlsplit(url)
        self._url = f"{url.rstrip('/')}/"  # as botocore's errors have it
        self._host = parts.hostname or ""
        self._port = parts.port or _PORTS[parts.scheme]
        self._tls = tls if parts.scheme == "https" else None
        self._connect_timeout, self._read_timeout, self._limit = connect_timeout, read_timeout, limit
        #: The one used last is at the end, with the time since when it is idle.
        self._idle: deque[tuple[socket.socket, float]] = deque()
        weakref.finalize(self, _close_all, self._idle)

    def exchange(self, request: bytes) -> Answer:
        """Send a request as it is and return its answer. Raises botocore's errors of connections."""
        connection = self._take() or self._connect()
        kept = False
        try:
            # A server may refuse a request before it has read all of it, and its answer says why.
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(request)
            answer, kept = read_answer(connection.recv)
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=self._url, error=error) from error
        except ssl.SSLError as error:
            raise SSLError(endpoint_url=self._url, error=error) from error
        except OSError as error:
            raise ConnectionClosedError(endpoint_url=self._url, error=error) from error
        except ValueError as error:
            raise HTTPClientError(error=error) from error
        finally:
            self._put_back(connection) if kept else connection.close()
        return answer

    def _take(self) -> socket.socket | None:
        """Return the connection that was used last, if the server has not closed it."""
        with contextlib.suppress(IndexError):
            while True:
                connection, since = self._idle.pop()
                if time.monotonic() - since < IDLE_SECONDS and not _is_readable(connection):
                    return connection
                connection.close()
        return None

    def _put_back(self, connection: socket.socket) -> None:
        if len(self._idle) < self._limit:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.close()

    def _connect(self) -> socket.socket:
        try:
            tls = self._tls() if self._tls else None
            connection = socket.create_connection((self._host, self._port), self._connect_timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if tls:
                connection = tls.wrap_socket(connection, server_hostname=self._host)
        except TimeoutError as error:
            raise ConnectTimeoutError(endpoint_url=self._url, error=error) from error
        except (ssl.SSLError, FileNotFoundError) as error:
            raise SSLError(endpoint_url=self._url, error=error) from error
        except OSError as error:
            raise EndpointConnectionError(endpoint_url=self._url, error=error) from error
        connection.settimeout(self._read_timeout)
        return connection


def _is_readable(connection: socket.socket) -> bool:
    """Whether something comes that no request asked for: mostly the end of the connection."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _close_all(idle: deque[tuple[socket.socket, float]]) -> None:
    while idle:
        idle.pop()[0].close()
