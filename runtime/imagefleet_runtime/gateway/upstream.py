"""A lean HTTP/1.1 client for calls to workers: keep-alive connections, whole replies, httptools' parser.

A worker call needs no redirects, cookies, proxies, compression or TLS; without them a request costs a
fraction of what aiohttp's client takes (figures in docs/decisions/0004-gateway.md).
"""

import asyncio
import socket
from collections import defaultdict
from dataclasses import dataclass
from typing import cast

import httptools

# A worker that does not accept within this time is as good as gone (seconds).
CONNECT_SECONDS = 5.0
# A worker may close an idle connection at the moment a request is sent on it. Then the connection breaks at
# once, without a byte of reply, after it was idle for a while; the request is sent again on a fresh one. Any
# other break is the worker's death (seconds).
STALE_IDLE_SECONDS = 1.0
STALE_BREAK_SECONDS = 1.0
# A worker's node that lost its power or its network says nothing. The kernel asks after 10 s without a sign of
# life, every 5 s, and breaks the connection after the third question without an answer.
_SIGNS_OF_LIFE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (
        socket.IPPROTO_TCP,
        socket.TCP_USER_TIMEOUT,
        25_000,
    ),  # milliseconds, for what was sent and not confirmed
)


class ConnectionBrokenError(Exception):
    """The worker was not reached, or went away before its reply was complete."""


@dataclass(slots=True)
class Reply:
    status: int
    headers: dict[bytes, bytes]
    """Names in lower case."""
    body: bytes

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class _Connection(asyncio.Protocol):
    """One connection, with at most one request on it."""

    def __init__(self) -> None:
        self.closed = False
        self.idle_since = 0.0
        self.transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self.answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's interface without its base class.
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("socket")
        for level, option, value in _SIGNS_OF_LIFE:
            peer.setsockopt(level, option, value)

    async def request(self, head_and_body: bytes) -> Reply:
        """Send a request and wait for its reply. Cancelling it closes the connection.

        Raises ConnectionBrokenError.
        """
        if self.closed or self.transport is None:
            raise ConnectionBrokenError("the connection is closed")
        self._waiter = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._chunks, self.answered = {}, [], False
        self.transport.write(head_and_body)
        try:
            return await self._waiter
        except asyncio.CancelledError:
            self.transport.abort()
            raise
        finally:
            self._waiter = None

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._parser is None:
            self._break("the worker sent what nobody asked for")
            return
        self.answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"the worker's reply is not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(str(exc or "the worker closed the connection"))

    def _break(self, why: str) -> None:
        self.closed = True
        if self.transport is not None:
            self.transport.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionBrokenError(why))

    # httptools calls these.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._parser is None or self._waiter is None or self._waiter.done():
            return
        if self._parser.get_status_code() < 200:
            return
        if not self._parser.should_keep_alive():
            self.closed = True
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._waiter.set_result(Reply(self._parser.get_status_code(), self._headers, body))


class Upstream:
    """Connections to all workers."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], list[_Connection]] = defaultdict(list)

    async def post(
        self, host: str, port: int, path: bytes, authorization: bytes, request_id: bytes, body: bytes
    ) -> Reply:
        """POST a JSON body. Raises ConnectionBrokenError."""
        return await self._send(
            host,
            port,
            b"POST %b HTTP/1.1\r\nhost: %b:%d\r\nauthorization: %b\r\nx-request-id: %b\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (path, _host(host), port, authorization, request_id, len(body), body),
        )

    async def get(self, host: str, port: int, path: bytes, authorization: bytes) -> Reply:
        """Raises ConnectionBrokenError."""
        return await self._send(
            host,
            port,
            b"GET %b HTTP/1.1\r\nhost: %b:%d\r\nauthorization: %b\r\n\r\n"
            % (path, _host(host), port, authorization),
        )

    async def _send(self, host: str, port: int, message: bytes) -> Reply:
        idle = self._idle[host, port]
        loop = asyncio.get_running_loop()
        while idle:
            connection = idle.pop()
            if connection.closed:
                continue
            start = loop.time()
            try:
                reply = await connection.request(message)
            except ConnectionBrokenError:
                was_idle = start - connection.idle_since > STALE_IDLE_SECONDS
                if connection.answered or not was_idle or loop.time() - start > STALE_BREAK_SECONDS:
                    raise
                break
            return self._keep(host, port, connection, reply)
        connection = await self._connect(host, port)
        return self._keep(host, port, connection, await connection.request(message))

    async def _connect(self, host: str, port: int) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(_Connection, host, port)
        except (OSError, TimeoutError) as error:
            raise ConnectionBrokenError(f"the worker was not reached: {error!r}") from None
        return connection

    def _keep(self, host: str, port: int, connection: _Connection, reply: Reply) -> Reply:
        if connection.closed:
            assert connection.transport is not None
            connection.transport.close()
        else:
            idle = self._idle[host, port]
            if idle and idle[0].closed:
                idle[:] = [other for other in idle if not other.closed]
            connection.idle_since = asyncio.get_running_loop().time()
            idle.append(connection)
        return reply

    def forget(self, keep: set[tuple[str, int]]) -> None:
        """Close idle connections to addresses that no worker has any more."""
        for address in [a for a in self._idle if a not in keep]:
            for connection in self._idle.pop(address):
                if connection.transport is not None:
                    connection.transport.close()

    def close(self) -> None:
        self.forget(set())


def _host(host: str) -> bytes:
    return f"[{host}]".encode() if ":" in host else host.encode()
