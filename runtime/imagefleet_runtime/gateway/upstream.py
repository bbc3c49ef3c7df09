"""A lean HTTP/1.1 client for calls to workers: keep-alive connections, whole replies or streams of events,
httptools' parser.

A worker call needs no redirects, cookies, proxies, compression or TLS; without them a request costs a
fraction of what aiohttp's client takes (figures in docs/decisions/0004-gateway.md).
"""

import asyncio
import functools
import math
import socket
from collections import defaultdict
from collections.abc import Callable, Sequence
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
# A stream's connection is read no further while this much waits to be passed on (bytes).
STREAM_BUFFER_BYTES = 256 * 1024
EVENT_STREAM = b"text/event-stream"
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
        return _header(self.headers, name)


class Stream:
    """A reply of kind text/event-stream: its head, and its body as it arrives.

    It has its connection to itself until it has ended or is closed.
    """

    def __init__(self, status: int, headers: dict[bytes, bytes], transport: asyncio.Transport) -> None:
        self.status = status
        self.headers = headers
        self.on_end: Callable[[], object] = lambda: None
        """Called once the worker has sent all."""
        self._transport = transport
        self._chunks: list[bytes] = []
        self._size = 0
        self.paused = False
        self.ended = False
        self._broken: str | None = None
        self._arrival = asyncio.Event()

    def header(self, name: bytes) -> str | None:
        return _header(self.headers, name)

    async def read(self) -> bytes:
        """What has arrived since the last call; waits for some, empty at the end.

        Raises ConnectionBrokenError.
        """
        await self._arrival.wait()
        if self._chunks:
            data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks, self._size = [], 0
            if not self.ended and self._broken is None:
                self._arrival.clear()
                self._resume()
            return data
        if self._broken is not None:
            raise ConnectionBrokenError(self._broken)
        return b""

    def close(self) -> None:
        """Ends the request on the worker, where it has not ended."""
        if not self.ended:
            self._transport.abort()

    def _resume(self) -> None:
        if self.paused and not self._transport.is_closing():
            self.paused = False
            self._transport.resume_reading()

    # The connection calls these.

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        self._arrival.set()
        if self._size >= STREAM_BUFFER_BYTES and not self.paused:
            self.paused = True
            self._transport.pause_reading()

    def end(self) -> None:
        self.ended = True
        self._arrival.set()
        self._resume()
        self.on_end()

    def broke(self, why: str) -> None:
        if not self.ended:
            self._broken = why
            self._arrival.set()


class _Connection(asyncio.Protocol):
    """One connection, with at most one request on it."""

    def __init__(self) -> None:
        self.closed = False
        self.idle_since = 0.0
        self.answered = False
        self.transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply | Stream] | None = None
        self._stream: Stream | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's interface without its base class.
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("socket")
        for level, option, value in _SIGNS_OF_LIFE:
            peer.setsockopt(level, option, value)

    async def request(self, head: bytes, body: bytes, deadline: float) -> Reply | Stream:
        """Send a request and wait for its reply. Cancelling it closes the connection.

        Raises ConnectionBrokenError, and TimeoutError at the deadline, in the event loop's time.
        """
        if self.closed or self.transport is None:
            raise ConnectionBrokenError("the connection is closed")
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        # A quarter of what asyncio.timeout takes of the CPU.
        timer = loop.call_at(deadline, self._expire)
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._chunks, self.answered = {}, [], False
        self.transport.writelines((head, body))
        try:
            return await self._waiter
        except asyncio.CancelledError:
            self.transport.abort()
            raise
        finally:
            timer.cancel()
            self._waiter = None

    def _expire(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())
        self._break("the worker did not answer in time")

    def data_received(self, data: bytes) -> None:
        if self._parser is None or (self._waiter is None and self._stream is None):
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
        if self._stream is not None:
            self._stream.broke(why)

    # httptools calls these.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if not self._headers.get(b"content-type", b"").startswith(EVENT_STREAM):
            return
        parser, waiter = self._parser, self._waiter
        if parser is not None and self.transport is not None and waiter is not None and not waiter.done():
            self._stream = Stream(parser.get_status_code(), self._headers, self.transport)
            waiter.set_result(self._stream)

    def on_body(self, body: bytes) -> None:
        if self._stream is not None:
            self._stream.feed(body)
        else:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._parser is None:
            return
        if not self._parser.should_keep_alive():
            self.closed = True
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.end()
        elif self._waiter is not None and not self._waiter.done() and self._parser.get_status_code() >= 200:
            chunks = self._chunks
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._waiter.set_result(Reply(self._parser.get_status_code(), self._headers, body))


class Upstream:
    """Connections to all workers."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], list[_Connection]] = defaultdict(list)

    async def post(
        self,
        host: str,
        port: int,
        path: bytes,
        authorization: bytes,
        request_id: bytes,
        body: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        deadline: float = math.inf,
    ) -> Reply | Stream:
        """POST a JSON body.

        Raises ConnectionBrokenError, and TimeoutError where there is no reply, nor a stream's head, by the
        deadline in the event loop's time.
        """
        more = b"".join(b"%b: %b\r\n" % header for header in headers) if headers else b""
        return await self._send(
            host,
            port,
            b"POST %b HTTP/1.1\r\nhost: %b:%d\r\nauthorization: %b\r\nx-request-id: %b\r\n%b"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % (path, _host(host), port, authorization, request_id, more, len(body)),
            body,
            deadline,
        )

    async def get(self, host: str, port: int, path: bytes, authorization: bytes) -> Reply:
        """Raises ConnectionBrokenError."""
        reply = await self._send(
            host,
            port,
            b"GET %b HTTP/1.1\r\nhost: %b:%d\r\nauthorization: %b\r\n\r\n"
            % (path, _host(host), port, authorization),
        )
        if isinstance(reply, Stream):
            reply.close()
            raise ConnectionBrokenError("the worker answered a stream, which nobody asked for")
        return reply

    async def _send(
        self, host: str, port: int, head: bytes, body: bytes = b"", deadline: float = math.inf
    ) -> Reply | Stream:
        idle = self._idle[host, port]
        loop = asyncio.get_running_loop()
        while idle:
            connection = idle.pop()
            if connection.closed:
                continue
            start = loop.time()
            try:
                reply = await connection.request(head, body, deadline)
            except ConnectionBrokenError:
                was_idle = start - connection.idle_since > STALE_IDLE_SECONDS
                if connection.answered or not was_idle or loop.time() - start > STALE_BREAK_SECONDS:
                    raise
                break
            return self._finish(host, port, connection, reply)
        connection = await self._connect(host, port)
        return self._finish(host, port, connection, await connection.request(head, body, deadline))

    async def _connect(self, host: str, port: int) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(_Connection, host, port)
        except (OSError, TimeoutError) as error:
            raise ConnectionBrokenError(f"the worker was not reached: {error!r}") from None
        return connection

    def _finish(self, host: str, port: int, connection: _Connection, reply: Reply | Stream) -> Reply | Stream:
        """Take the connection back, of a stream once that has ended."""
        if isinstance(reply, Stream) and not reply.ended:
            reply.on_end = functools.partial(self._keep, host, port, connection)
        else:
            self._keep(host, port, connection)
        return reply

    def _keep(self, host: str, port: int, connection: _Connection) -> None:
        transport = connection.transport
        assert transport is not None
        if connection.closed:
            transport.close()
            return
        if transport.get_write_buffer_size():
            # The reply came before the worker had read the request: nothing can follow on this connection.
            transport.abort()
            return
        idle = self._idle[host, port]
        if idle and idle[0].closed:
            idle[:] = [other for other in idle if not other.closed]
        connection.idle_since = asyncio.get_running_loop().time()
        idle.append(connection)

    def forget(self, keep: set[tuple[str, int]]) -> None:
        """Close idle connections to addresses that no worker has any more."""
        for address in [a for a in self._idle if a not in keep]:
            for connection in self._idle.pop(address):
                if connection.transport is not None:
                    connection.transport.close()

    def close(self) -> None:
        self.forget(set())


def _header(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def _host(host: str) -> bytes:
    return f"[{host}]".encode() if ":" in host else host.encode()
