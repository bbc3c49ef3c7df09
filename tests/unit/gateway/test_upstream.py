import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from imagefleet_runtime.gateway import upstream
from imagefleet_runtime.gateway.upstream import ConnectionBrokenError, Reply, Stream, Upstream

from tests.unit.gateway.builders import until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Peer:
    """A server that sends one scripted answer per request it reads; None closes the connection instead."""

    def __init__(self, *answers: bytes | None, close_after: bool = False) -> None:
        self.close_after = close_after
        self.answers = list(answers)
        self.connections = 0
        self.port = 0

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                answer = self.answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
                if self.close_after:
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Peer"]:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


async def ask(client: Upstream, peer: Peer) -> Reply:
    return await client.get("127.0.0.1", peer.port, b"/", b"Bearer t")


REPLIES: dict[str, bytes] = {
    "a length": OK,
    "chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
    "a hundred first": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
}


@pytest.mark.parametrize("answer", REPLIES.values(), ids=REPLIES.keys())
async def test_a_reply_with(answer: bytes) -> None:
    client = Upstream()
    async with Peer(answer).serving() as peer:
        reply = await ask(client, peer)
        client.close()
    assert (reply.status, reply.body) == (200, b"ok")


async def test_header_names_are_in_lower_case() -> None:
    client = Upstream()
    async with Peer(b"HTTP/1.1 200 OK\r\nX-Rate: 3\r\nContent-Length: 0\r\n\r\n").serving() as peer:
        reply = await ask(client, peer)
        client.close()
    assert (reply.header(b"x-rate"), reply.header(b"x-none"), reply.body) == ("3", None, b"")


BROKEN: dict[str, bytes | None] = {
    "nothing": None,
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "half a body": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_a_connection_breaks_after(answer: bytes | None) -> None:
    client = Upstream()
    async with Peer(answer, close_after=True).serving() as peer:
        with pytest.raises(ConnectionBrokenError):
            await ask(client, peer)


EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def stream_of(client: Upstream, peer: Peer) -> Stream:
    reply = await client.post("127.0.0.1", peer.port, b"/", b"Bearer t", b"id", b"")
    assert isinstance(reply, Stream)
    return reply


async def test_a_stream_is_read_as_it_arrives_and_its_connection_kept() -> None:
    client = Upstream()
    async with Peer(EVENTS + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", OK).serving() as peer:
        stream = await stream_of(client, peer)
        assert (stream.status, stream.header(b"content-type")) == (200, "text/event-stream")
        assert [await stream.read(), await stream.read(), await stream.read()] == [b"abc", b"", b""]
        assert (await ask(client, peer)).body == b"ok"
        client.close()
    assert peer.connections == 1


async def test_a_stream_that_is_not_read_is_not_read_from_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream, "STREAM_BUFFER_BYTES", 1000)
    size = 50_000_000
    client = Upstream()
    async with Peer(EVENTS + b"%x\r\n" % size + bytes(size) + b"\r\n0\r\n\r\n").serving() as peer:
        stream = await stream_of(client, peer)
        await until(lambda: stream.paused)
        got = len(await stream.read())
        assert 1000 <= got < size / 10
        while more := await stream.read():
            got += len(more)
        client.close()
    assert got == size


async def test_a_stream_that_breaks_gives_what_came_before() -> None:
    client = Upstream()
    async with Peer(EVENTS + b"2\r\nab\r\n9\r\nc", close_after=True).serving() as peer:
        stream = await stream_of(client, peer)
        got = await stream.read()
        got += b"" if got == b"abc" else await stream.read()
        with pytest.raises(ConnectionBrokenError):
            await stream.read()
    assert got == b"abc"


async def test_a_stream_that_is_closed_ends_the_connection() -> None:
    client = Upstream()
    async with Peer(EVENTS + b"2\r\nab\r\n", OK).serving() as peer:
        stream = await stream_of(client, peer)
        stream.close()
        assert (await ask(client, peer)).body == b"ok"
        client.close()
    assert peer.connections == 2


async def test_a_reply_that_does_not_come_in_time() -> None:
    client = Upstream()
    async with Peer(b"", OK).serving() as peer:
        deadline = asyncio.get_running_loop().time() + 0.01
        with pytest.raises(TimeoutError):
            await client.post("127.0.0.1", peer.port, b"/", b"Bearer t", b"id", b"", (), deadline)
        assert (await ask(client, peer)).body == b"ok"
        client.close()
    assert peer.connections == 2


async def test_a_stream_where_a_state_was_asked_for_is_refused() -> None:
    client = Upstream()
    async with Peer(EVENTS).serving() as peer:
        with pytest.raises(ConnectionBrokenError, match="nobody asked for"):
            await ask(client, peer)


async def test_connections_are_kept_unless_the_worker_says_close() -> None:
    client = Upstream()
    closing = OK.replace(b"content-length", b"connection: close\r\ncontent-length")
    async with Peer(OK, OK, closing, OK).serving() as peer:
        for _ in range(4):
            await ask(client, peer)
        client.close()
    assert peer.connections == 2


async def test_a_kept_connection_that_closed_after_a_while_is_no_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream, "STALE_IDLE_SECONDS", -1.0)
    client = Upstream()
    async with Peer(OK, None, OK).serving() as peer:
        await ask(client, peer)
        assert (await ask(client, peer)).body == b"ok"
        client.close()
    assert peer.connections == 2


async def test_a_connection_in_use_that_closes_is_a_loss() -> None:
    client = Upstream()
    async with Peer(OK, None, OK).serving() as peer:
        await ask(client, peer)
        with pytest.raises(ConnectionBrokenError):
            await ask(client, peer)
        client.close()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_node_that_falls_silent_is_noticed_by_the_kernel(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def options() -> list[int]:
        client = Upstream()
        async with Peer(OK).serving() as peer:
            await ask(client, peer)
            [[connection]] = client._idle.values()
            assert connection.transport is not None
            kept = connection.transport.get_extra_info("socket")
            found = [
                kept.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            ]
            client.close()
        return found

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(options()) == [1, 10, 25_000]


async def test_nobody_listens() -> None:
    async with Peer().serving() as peer:
        pass
    with pytest.raises(ConnectionBrokenError):
        await ask(Upstream(), peer)


async def test_connections_to_addresses_that_are_gone_are_closed() -> None:
    client = Upstream()
    async with Peer(OK, OK).serving() as peer:
        await ask(client, peer)
        client.forget(keep=set())
        await ask(client, peer)
        client.close()
    assert peer.connections == 2
