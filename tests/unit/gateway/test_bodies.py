"""Bodies as they arrive, and what of a request's head goes on to the worker."""

import asyncio
import base64
import contextlib
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from imagefleet_runtime.gateway import bodies
from imagefleet_runtime.gateway.bodies import read_head

from tests.unit.gateway.builders import PROMPT, FakeWorker, Harness, draws, encoded, until

EDITS = "/v1/images/edits"
PNG = encoded("PNG", (64, 48))
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

TRACING: dict[str, tuple[list[tuple[bytes, bytes]], tuple[tuple[bytes, bytes], ...]]] = {
    "nothing": ([], ()),
    "a parent": ([(b"traceparent", PARENT)], ((b"traceparent", PARENT),)),
    "a parent and its state": (
        [(b"tracestate", b"a=1"), (b"traceparent", PARENT)],
        ((b"traceparent", PARENT), (b"tracestate", b"a=1")),
    ),
    "a parent of a later version": ([(b"traceparent", PARENT + b"-x")], ((b"traceparent", PARENT + b"-x"),)),
    "a state without a parent": ([(b"tracestate", b"a=1")], ()),
    "a parent that is none": ([(b"traceparent", b"00-1-1-01"), (b"tracestate", b"a=1")], ()),
    "a state without end": (
        [(b"traceparent", PARENT), (b"tracestate", b"a" * 513)],
        ((b"traceparent", PARENT),),
    ),
}


@pytest.mark.parametrize(("headers", "want"), TRACING.values(), ids=TRACING.keys())
def test_trace_context_of(headers: list[tuple[bytes, bytes]], want: tuple[tuple[bytes, bytes], ...]) -> None:
    assert read_head(headers).tracing == want


async def test_the_worker_gets_the_callers_trace_context(gateway: Harness) -> None:
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        await gateway.post(PROMPT, headers={"traceparent": PARENT.decode(), "tracestate": "a=1"})
        await gateway.post(PROMPT)
    with_context, without = worker.headers
    assert (with_context["traceparent"], with_context["tracestate"]) == (PARENT.decode(), "a=1")
    assert "traceparent" not in without


def form(**fields: Any) -> aiohttp.FormData:
    data = aiohttp.FormData()
    for name, value in ({"prompt": "a", "model": "shapes"} | fields).items():
        data.add_field(name, value, filename=f"{name}.png" if isinstance(value, bytes) else None)
    return data


async def test_a_picture_of_many_chunks_arrives_whole(gateway: Harness) -> None:
    large = PNG + bytes(range(256)) * 20_000
    async with FakeWorker().serving() as worker:
        gateway.set_fleet(worker.view())
        async with gateway.session.post(gateway.url + EDITS, data=form(image=large)) as response:
            assert response.status == 200
    (sent,) = worker.requests
    assert base64.b64decode(sent["image"]) == large


async def test_a_form_that_is_too_large_is_read_to_its_end_and_refused(
    gateway: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY_BYTES", 1_000_000)
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as caller:
        with pytest.raises(openai.APIStatusError) as caught:
            await caller.images.edit(image=PNG + bytes(3_000_000), prompt="a", model="shapes")
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")
    assert gateway.gateway.bodies.used == 0


async def test_a_body_without_end_is_not_read_to_its_end(
    gateway: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY_BYTES", 1000)
    monkeypatch.setattr(bodies, "DISCARD_BYTES", 100_000)
    head = b"POST /v1/images/edits HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    reader, writer = await connect(gateway)
    writer.write(head + b"transfer-encoding: chunked\r\n\r\n")
    # The connection ends under the caller, who still sends.
    with contextlib.suppress(ConnectionError):
        while not gateway.log:
            writer.write(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
            await writer.drain()
        await reader.read()
    assert (gateway.log[0]["status"], gateway.log[0]["code"]) == (413, "body_too_large")
    writer.close()


async def test_a_caller_that_asks_first_is_spared_the_upload(gateway: Harness) -> None:
    reader, writer = await connect(gateway)
    writer.write(
        b"POST /v1/images/edits HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % (bodies.MAX_BODY_BYTES + 1)
    )
    assert b" 413 " in await reader.readline()
    writer.close()


async def connect(gateway: Harness) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


async def test_bodies_share_a_bounded_room(gateway: Harness) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def works(body: dict[str, Any]) -> web.StreamResponse:
        started.set()
        await go_on.wait()
        return await draws(body)

    room = gateway.gateway.bodies
    room.limit = 5000
    async with FakeWorker(answer=works).serving() as worker:
        gateway.set_fleet(worker.view())
        first = asyncio.create_task(edit(gateway, PNG + bytes(3000)))
        await started.wait()
        assert room.used > 3000
        status, headers, body = await edit(gateway, PNG + bytes(3000))
        assert (status, body["error"]["code"], headers["retry-after"]) == (503, "gateway_busy", "5")
        go_on.set()
        assert (await first)[0] == 200
        assert (await edit(gateway, PNG + bytes(3000)))[0] == 200
    assert room.used == 0


async def edit(gateway: Harness, image: bytes) -> tuple[int, dict[str, str], Any]:
    async with gateway.session.post(gateway.url + EDITS, data=form(image=image)) as response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return response.status, headers, await response.json()


async def test_a_caller_that_leaves_in_its_upload_leaves_nothing_behind(gateway: Harness) -> None:
    _, writer = await connect(gateway)
    writer.write(
        b"POST /v1/images/edits HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: 1000\r\n\r\n" + b" " * 500
    )
    await until(lambda: gateway.gateway.bodies.used == 500)
    writer.close()
    await until(lambda: gateway.log)
    assert (gateway.log[0]["status"], gateway.gateway.bodies.used) == (499, 0)
