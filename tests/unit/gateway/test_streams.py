"""Streams of events: from fake workers through the real application to callers, over loopback sockets."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from imagefleet_runtime.gateway import app
from imagefleet_runtime.gateway.main import drain

from tests.unit.gateway.builders import (
    COMPLETED,
    PARTIAL,
    PROMPT,
    Answer,
    Events,
    FakeWorker,
    Harness,
    draws,
    encoded,
    event,
    make_settings,
    refuses,
    sends,
    streams,
    until,
)
from tests.unit.gateway.conftest import HarnessFactory

STREAM = PROMPT | {"stream": True}
KEEP_ALIVE = b": keep-alive\n\n"


@asynccontextmanager
async def streaming(gateway: Harness, **fields: Any) -> AsyncIterator[aiohttp.ClientResponse]:
    url = f"{gateway.url}/v1/images/generations"
    async with gateway.session.post(url, json=STREAM | fields) as response:
        yield response


async def read(gateway: Harness, **fields: Any) -> bytes:
    async with streaming(gateway, **fields) as response:
        assert response.status == 200
        return await response.read()


def error_of(stream: bytes) -> dict[str, Any]:
    """The error in a stream's last event."""
    last = stream.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    name, data = last.split(b"\n")
    assert name == b"event: error"
    error: dict[str, Any] = json.loads(data.removeprefix(b"data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def demand(gateway: Harness) -> dict[str, Any]:
    ((_, entry),) = gateway.gateway.metrics.demands()
    return {"held": entry.held, "running": entry.running}


async def test_events_arrive_as_the_worker_sends_them(gateway: Harness) -> None:
    seen = asyncio.Event()

    async def script(stream: Events) -> None:
        await stream.write(PARTIAL)
        await seen.wait()
        await stream.write(KEEP_ALIVE + COMPLETED)

    async with FakeWorker(answer=streams(script)).serving() as worker:
        gateway.set_fleet(worker.view())
        async with streaming(gateway, partial_images=1, seed=5) as response:
            assert await response.content.readexactly(len(PARTIAL)) == PARTIAL
            assert demand(gateway) == {"held": 0, "running": 1}
            assert gateway.log == []
            seen.set()
            assert await response.read() == KEEP_ALIVE + COMPLETED
    (sent,) = worker.requests
    assert (sent["stream"], sent["partial_images"]) == (True, 1)
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-imagefleet-model"] == "shapes-1"
    assert response.headers["x-imagefleet-seed"] == "5"
    assert demand(gateway) == {"held": 0, "running": 0}
    assert (gateway.log[0]["status"], gateway.log[0]["code"]) == (200, "")


async def test_the_first_event_is_measured(gateway: Harness) -> None:
    async with FakeWorker(answer=sends(COMPLETED)).serving() as worker:
        gateway.set_fleet(worker.view())
        await read(gateway)
        await gateway.post(PROMPT | {"n": 5})
        _, text = await gateway.get("/metrics")
    labels = '{model="shapes-1",namespace="art",pool="thumbs"}'
    assert f"imagefleet_gateway_first_event_seconds_count{labels} 1.0" in text


LOST_AT: dict[str, list[bytes]] = {
    "before anything": [],
    "in its first event": [PARTIAL[:-1]],
}


def breaks_after(*pieces: bytes) -> Answer:
    async def script(stream: Events) -> None:
        for piece in pieces:
            await stream.write(piece)
        stream.break_off()

    return streams(script)


@pytest.mark.parametrize("pieces", LOST_AT.values(), ids=LOST_AT.keys())
async def test_another_worker_is_tried_where_one_is_lost(gateway: Harness, pieces: list[bytes]) -> None:
    busy = {"workSeconds": 1000.0, "models": [{"model": "shapes-1", "state": "Resident"}]}
    bad = FakeWorker("w1", breaks_after(*pieces))
    async with bad.serving(), FakeWorker("w2", sends(COMPLETED), busy).serving() as good:
        gateway.set_fleet(bad.view(), good.view())
        await until(lambda: gateway.gateway.fleet.loads["uid-w2"].work_left(time.monotonic()) > 0)
        assert await read(gateway) == COMPLETED
    assert (len(bad.requests), len(good.requests)) == (1, 1)
    assert gateway.log[0]["attempts"] == 2


async def test_a_stream_that_ends_before_it_begins_is_lost_too(gateway: Harness) -> None:
    async with FakeWorker(answer=sends()).serving() as worker:
        gateway.set_fleet(worker.view())
        async with streaming(gateway) as response:
            body = await response.json()
    assert (response.status, body["error"]["code"]) == (502, "worker_lost")


async def test_an_error_before_the_stream_has_its_own_status(gateway: Harness) -> None:
    async with FakeWorker(answer=refuses(400, "size_exceeds_memory")).serving() as worker:
        gateway.set_fleet(worker.view())
        async with streaming(gateway) as response:
            body = await response.json()
    assert (response.status, body["error"]["code"]) == (400, "size_exceeds_memory")
    assert response.headers["content-type"] == "application/json"


async def test_a_full_worker_is_skipped_for_a_stream_too(gateway: Harness) -> None:
    full = FakeWorker("w1", refuses(429, "queue_full", retry_after="3"))
    async with full.serving(), FakeWorker("w2", sends(COMPLETED)).serving() as good:
        gateway.set_fleet(full.view(), good.view())
        for _ in range(4):
            assert await read(gateway) == COMPLETED
    assert len(good.requests) == 4


FAILS: dict[str, tuple[Answer, bytes, str, int]] = {
    "is lost between events": (breaks_after(PARTIAL), PARTIAL, "worker_lost", 502),
    "is lost in an event": (breaks_after(PARTIAL, COMPLETED[:-9]), PARTIAL, "worker_lost", 502),
    "ends without a picture": (sends(PARTIAL), PARTIAL, "worker_error", 502),
    "is cut in its own error": (
        sends(PARTIAL, b'event: error\ndata: {"error": {"message": "m", "type": "server_error", '),
        PARTIAL,
        "worker_error",
        502,
    ),
}


@pytest.mark.parametrize(("answer", "before", "code", "status"), FAILS.values(), ids=FAILS.keys())
async def test_a_stream_ends_with_an_error_where_the_worker(
    gateway: Harness, answer: Answer, before: bytes, code: str, status: int
) -> None:
    async with FakeWorker(answer=answer).serving() as worker, FakeWorker("w2").serving() as other:
        gateway.set_fleet(worker.view(), other.view(placement=()))
        stream = await read(gateway)
    assert stream.startswith(before)
    error = error_of(stream[len(before) :])
    assert (error["code"], error["type"]) == (code, "server_error")
    assert (gateway.log[0]["status"], gateway.log[0]["code"]) == (status, code)
    assert len(worker.requests) == 1
    assert demand(gateway)["running"] == 0


async def test_a_workers_own_error_is_passed_on_as_it_is(gateway: Harness) -> None:
    error = {"message": "no memory", "type": "server_error", "param": None, "code": "out_of_memory"}
    sent = PARTIAL + b"event: error\ndata: " + json.dumps({"error": error}).encode() + b"\n\n"
    async with FakeWorker(answer=sends(sent)).serving() as worker:
        gateway.set_fleet(worker.view())
        assert await read(gateway) == sent
    assert (gateway.log[0]["status"], gateway.log[0]["code"]) == (500, "out_of_memory")


async def test_what_breaks_after_the_last_picture_is_no_loss(gateway: Harness) -> None:
    async with FakeWorker(answer=breaks_after(COMPLETED, COMPLETED)).serving() as worker:
        gateway.set_fleet(worker.view())
        assert await read(gateway, n=2) == COMPLETED + COMPLETED
    assert gateway.log[0]["status"] == 200


async def test_a_worker_that_falls_silent_in_its_stream(start_gateway: HarnessFactory) -> None:
    async def script(stream: Events) -> None:
        await stream.write(PARTIAL)
        await asyncio.Event().wait()

    async with (
        start_gateway(IMAGEFLEET_UPSTREAM_SECONDS="1") as gateway,
        FakeWorker(answer=streams(script)).serving() as worker,
    ):
        gateway.set_fleet(worker.view())
        stream = await read(gateway)
    assert error_of(stream)["code"] == "worker_timeout"
    assert gateway.log[0]["status"] == 504


FAULTS: dict[str, tuple[Answer, bool]] = {
    "a picture where a stream was asked for": (draws, True),
    "a stream where a picture was asked for": (sends(COMPLETED), False),
}


@pytest.mark.parametrize(("answer", "stream"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_worker_that_answers(gateway: Harness, answer: Answer, stream: bool) -> None:
    async with FakeWorker(answer=answer).serving() as worker:
        gateway.set_fleet(worker.view())
        async with streaming(gateway, stream=stream) as response:
            body = await response.json()
    assert (response.status, body["error"]["code"]) == (502, "worker_error")


async def test_a_caller_that_goes_away_ends_the_workers_stream(gateway: Harness) -> None:
    cancelled = asyncio.Event()

    async def script(stream: Events) -> None:
        await stream.write(PARTIAL)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with FakeWorker(answer=streams(script)).serving() as worker:
        gateway.set_fleet(worker.view())
        async with streaming(gateway) as response:
            await response.content.readexactly(len(PARTIAL))
            load = gateway.gateway.fleet.loads["uid-w1"]
            assert load.inflight == 1
            response.close()
            await cancelled.wait()
        await until(lambda: gateway.log)
    assert (gateway.log[0]["status"], gateway.log[0]["code"]) == (499, "client_closed_request")
    assert load.inflight == 0
    assert demand(gateway)["running"] == 0
    assert gateway.gateway.app.running == 0


async def test_a_caller_that_takes_nothing_is_given_up(
    gateway: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "STALLED_SECONDS", 0.05)
    large = event("partial_image", b64_json="x" * 1_000_000)
    sent = 0

    async def script(stream: Events) -> None:
        nonlocal sent
        while True:
            await stream.write(large)
            sent += 1

    async with FakeWorker(answer=streams(script)).serving() as worker:
        gateway.set_fleet(worker.view())
        async with streaming(gateway):
            await until(lambda: gateway.log)
        assert gateway.log[0]["status"] == 499
        await until(lambda: demand(gateway)["running"] == 0)
    # Megabytes: what the sockets' buffers hold, and no more in the gateway.
    assert sent < 100


async def test_large_events_arrive_whole(gateway: Harness) -> None:
    large = [event("partial_image", b64_json=str(number) * 2_000_000) for number in range(3)]
    async with FakeWorker(answer=sends(*large, COMPLETED)).serving() as worker:
        gateway.set_fleet(worker.view())
        assert await read(gateway) == b"".join(large) + COMPLETED


async def test_a_connection_is_used_again_after_a_stream(gateway: Harness) -> None:
    async with FakeWorker(answer=sends(PARTIAL, COMPLETED)).serving() as worker:
        gateway.set_fleet(worker.view())
        for _ in range(3):
            await read(gateway)
        assert len(worker.callers) <= 2


async def test_what_a_worker_says_of_its_work_counts_from_the_first_event(gateway: Harness) -> None:
    async with FakeWorker(answer=sends(COMPLETED)).serving() as worker:
        gateway.set_fleet(worker.view())
        await read(gateway)
        left = gateway.gateway.fleet.loads["uid-w1"].work_left(time.monotonic())
    assert 25 < left <= 30


async def test_a_draining_gateway_finishes_its_streams(gateway: Harness) -> None:
    go_on = asyncio.Event()

    async def script(stream: Events) -> None:
        await stream.write(PARTIAL)
        await go_on.wait()
        await stream.write(COMPLETED)

    async with FakeWorker(answer=streams(script)).serving() as worker:
        gateway.set_fleet(worker.view())
        async with streaming(gateway) as response:
            await response.content.readexactly(len(PARTIAL))
            settings = make_settings(IMAGEFLEET_GRACE_SECONDS="60")
            draining = asyncio.create_task(drain(gateway.server, gateway.gateway.app, settings))
            await until(lambda: gateway.gateway.app.draining)
            assert not draining.done()
            go_on.set()
            assert await response.read() == COMPLETED
        await draining


def client(gateway: Harness) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0)


async def test_the_openai_client_reads_a_stream(gateway: Harness) -> None:
    second = event("partial_image", partial_image_index=1)
    async with (
        FakeWorker(answer=sends(PARTIAL, KEEP_ALIVE, second, COMPLETED)).serving() as worker,
        client(gateway) as caller,
    ):
        gateway.set_fleet(worker.view())
        stream = await caller.images.generate(prompt="a", model="shapes", stream=True, partial_images=2)
        got = [(e.type, getattr(e, "partial_image_index", None), e.b64_json) async for e in stream]
    assert got == [
        ("image_generation.partial_image", 0, "aW1hZ2U="),
        ("image_generation.partial_image", 1, "aW1hZ2U="),
        ("image_generation.completed", None, "aW1hZ2U="),
    ]


async def test_the_openai_client_reads_an_edits_stream(gateway: Harness) -> None:
    parts = [event("partial_image", "image_edit", partial_image_index=0), event("completed", "image_edit")]
    async with FakeWorker(answer=sends(*parts)).serving() as worker, client(gateway) as caller:
        gateway.set_fleet(worker.view())
        stream = await caller.images.edit(
            image=encoded("PNG", (64, 64)), prompt="a", model="shapes", stream=True, partial_images=1
        )
        got = [part.type async for part in stream]
    assert got == ["image_edit.partial_image", "image_edit.completed"]
    assert (worker.requests[0]["stream"], worker.requests[0]["partial_images"]) == (True, 1)


async def test_the_openai_client_raises_a_streams_error(gateway: Harness) -> None:
    async with FakeWorker(answer=breaks_after(PARTIAL)).serving() as worker, client(gateway) as caller:
        gateway.set_fleet(worker.view())
        stream = await caller.images.generate(prompt="a", model="shapes", stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "worker_lost"


async def test_a_client_that_closes_its_stream_cancels_the_work(gateway: Harness) -> None:
    cancelled = asyncio.Event()

    async def script(stream: Events) -> None:
        await stream.write(PARTIAL)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with FakeWorker(answer=streams(script)).serving() as worker, client(gateway) as caller:
        gateway.set_fleet(worker.view())
        stream = await caller.images.generate(prompt="a", model="shapes", stream=True)
        async for _ in stream:
            break
        await stream.close()
        await cancelled.wait()
