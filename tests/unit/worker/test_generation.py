"""`POST /v1/generate`, whole and as a stream, with nobody who draws behind it."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from imagefleet_runtime.worker import errors, stream
from imagefleet_runtime.worker.waiting import Job, Picture, Preview

from tests.unit.worker.http_fakes import FakeSupervisor, answer, ask, client_of, fail, make_app, served
from tests.unit.worker.pictures import base64_of, noise

Event = tuple[str, dict[str, Any]]


@pytest.fixture
def supervisor() -> FakeSupervisor:
    return FakeSupervisor()


@pytest.fixture
async def client(supervisor: FakeSupervisor) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(supervisor)) as client:
        yield client


@contextlib.asynccontextmanager
async def asked(
    client: httpx.AsyncClient, supervisor: FakeSupervisor, **fields: Any
) -> AsyncIterator[tuple[Job, asyncio.Task[httpx.Response]]]:
    """A request that was admitted: its job, and the reply to come, of which only the head is read."""
    request = client.build_request("POST", "/v1/generate", content=ask(**fields))
    reply = asyncio.create_task(client.send(request, stream=True))
    job = await supervisor.jobs.get()
    try:
        yield job, reply
    finally:
        if not reply.done():
            reply.cancel()
        elif not reply.cancelled() and reply.exception() is None:
            await reply.result().aclose()


async def events(reply: httpx.Response) -> list[Event]:
    """The stream's events; comments are left out, as all readers do."""
    text = (await reply.aread()).decode()
    assert text.endswith("\n\n")
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_pictures_come_in_one_reply_with_their_seeds(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    async with asked(client, supervisor, n=2, seed=40, quality="medium") as (job, reply):
        answer(job, b"one", b"two")
        response = await reply
        body = json.loads(await response.aread())
    assert [(base64.b64decode(item["b64_json"]), item["seed"]) for item in body["data"]] == [
        (b"one", 40),
        (b"two", 41),
    ]
    assert (body["size"], body["quality"], body["output_format"]) == ("512x384", "medium", "png")
    assert response.headers["x-imagefleet-seed"] == "40"
    assert response.headers["x-imagefleet-run-seconds"] == "0.500000"
    assert supervisor.count("ok") == 1


async def test_a_stream_tells_of_previews_and_pictures_in_openais_words(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    async with asked(client, supervisor, stream=True, partial_images=1, seed=42, quality="low") as (
        job,
        reply,
    ):
        job.tell(Preview(0, 0, b"half"))
        response = await reply
        job.tell(Picture(0, b"whole"))
        answer(job, b"whole")
        (first, half), (second, whole) = await events(response)
    common = {"size": "512x384", "quality": "low", "background": "opaque", "output_format": "png"}
    created = half.pop("created_at"), whole.pop("created_at")
    assert created == tuple(sorted(created))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-imagefleet-seed"] == "42"
    assert (first, second) == ("image_generation.partial_image", "image_generation.completed")
    assert half == {
        "type": first,
        "b64_json": base64.b64encode(b"half").decode(),
        "partial_image_index": 0,
        **common,
    }
    assert whole == {
        "type": second,
        "b64_json": base64.b64encode(b"whole").decode(),
        "seed": 42,
        **common,
    }
    assert supervisor.count("ok") == 1


async def test_with_an_image_the_events_are_of_an_edit(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    async with asked(client, supervisor, stream=True, image=base64_of(noise(64, 64))) as (job, reply):
        job.tell(Preview(0, 0, b"half"))
        job.tell(Picture(0, b"whole"))
        answer(job, b"whole")
        names = [name for name, _ in await events(await reply)]
    assert names == ["image_edit.partial_image", "image_edit.completed"]


async def test_each_picture_of_n_is_completed_with_its_seed(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    async with asked(client, supervisor, stream=True, n=2, seed=40) as (job, reply):
        job.tell(Picture(1, b"two"))
        job.tell(Picture(0, b"one"))
        answer(job, b"one", b"two")
        seeds = [data["seed"] for _, data in await events(await reply)]
    assert seeds == [41, 40]


async def test_the_head_of_a_stream_waits_for_its_first_event(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    async with asked(client, supervisor, stream=True) as (job, reply):
        assert (await client.get("/livez")).status_code == 200  # the worker has had its turn
        assert not reply.done()
        job.tell(Picture(0, b"one"))
        assert (await reply).status_code == 200


async def test_a_failure_before_the_first_event_has_its_own_status(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    async with asked(client, supervisor, stream=True) as (job, reply):
        fail(job, errors.engine("out_of_memory", "no room"))
        response = await reply
        body = json.loads(await response.aread())
    assert (response.status_code, body["error"]["code"]) == (500, "out_of_memory")
    assert response.headers["content-type"] == "application/json"
    assert supervisor.count("out_of_memory") == 1


async def test_a_failure_tells_what_was_drawn_until_then(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    for drawn, header in ((0.25, "0.250000"), (0.0, None)):
        async with asked(client, supervisor) as (job, reply):
            job.parts[0].alone_seconds = drawn
            fail(job, errors.engine("generation_failed", "NaN"))
            assert (await reply).headers.get("x-imagefleet-run-seconds") == header


async def test_a_later_failure_is_an_event_and_the_end(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    async with asked(client, supervisor, stream=True) as (job, reply):
        job.tell(Preview(0, 0, b"half"))
        response = await reply
        fail(job, errors.engine("engine_crashed", "it crashed"))
        [_, (name, data)] = await events(response)
    assert (name, data["error"]["code"], data["error"]["type"]) == ("error", "engine_crashed", "server_error")
    assert supervisor.count("engine_crashed") == 1


async def test_an_interrupted_request_says_from_where_another_worker_goes_on(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    async with asked(client, supervisor) as (job, reply):
        job.parts[0].steps_before = 7
        fail(job, errors.InterruptedRequestError("Y2hlY2s=", 12))
        response = await reply
        body = json.loads(await response.aread())
    assert (response.status_code, body["error"]["code"]) == (503, "interrupted")
    assert (body["checkpoint"], body["stepsDone"]) == ("Y2hlY2s=", 12)
    assert response.headers["x-imagefleet-resumed-steps"] == "7"
    assert supervisor.count("interrupted") == 1


async def test_a_stream_that_is_interrupted_ends_with_its_checkpoint(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    async with asked(client, supervisor, stream=True) as (job, reply):
        job.tell(Preview(0, 0, b"half"))
        response = await reply
        fail(job, errors.InterruptedRequestError("Y2hlY2s=", 12))
        [_, (name, data)] = await events(response)
    assert (name, data) == ("imagefleet.checkpoint", {"checkpoint": "Y2hlY2s=", "stepsDone": 12})


async def test_what_was_drawn_before_a_failure_is_told_first(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    async with asked(client, supervisor, stream=True, n=2) as (job, reply):
        job.tell(Preview(0, 0, b"half"))
        response = await reply
        job.tell(Picture(0, b"one"))
        fail(job, errors.engine("generation_failed", "NaN"))
        names = [name for name, _ in await events(response)]
    assert names == ["image_generation.partial_image", "image_generation.completed", "error"]


async def test_a_silent_stream_is_kept_alive(
    client: httpx.AsyncClient, supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.01)
    async with asked(client, supervisor, stream=True) as (job, reply):
        job.tell(Preview(0, 0, b"half"))
        parts = (await reply).aiter_text()
        text = ""
        async with asyncio.timeout(10):
            while text.count(": keep-alive\n\n") < 2:
                text += await anext(parts)
        job.tell(Picture(0, b"whole"))
        answer(job, b"whole")
        text += "".join([part async for part in parts])
    assert "image_generation.completed" in text


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_caller_that_leaves_before_the_first_event_is_dropped(
    client: httpx.AsyncClient, supervisor: FakeSupervisor, streamed: bool
) -> None:
    async with asked(client, supervisor, stream=streamed) as (job, _):
        pass
    assert await asyncio.wait_for(supervisor.cancelled.get(), 10) is job


async def test_a_caller_that_leaves_a_stream_is_dropped(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    async with asked(client, supervisor, stream=True) as (job, reply):
        job.tell(Preview(0, 0, b"half"))
        await (await reply).aclose()
        assert await asyncio.wait_for(supervisor.cancelled.get(), 10) is job
    assert (await client.get("/livez")).status_code == 200  # the worker has had its turn
    assert supervisor.count("client_disconnected") == 1


async def test_a_caller_that_reads_nothing_is_dropped(
    supervisor: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "STALL_SECONDS", 0.2)
    async with served(make_app(supervisor)) as address:
        host, port = address.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = ask(stream=True, n=4)
        writer.write(
            b"POST /v1/generate HTTP/1.1\r\nhost: worker\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )
        job = await supervisor.jobs.get()
        for index in range(3):
            job.tell(Picture(index, bytes(8 * 1024 * 1024)))  # more than the sockets' buffers hold
        assert await asyncio.wait_for(supervisor.cancelled.get(), 20) is job
        writer.close()


async def test_a_request_that_is_refused_says_why_and_is_counted(
    client: httpx.AsyncClient, supervisor: FakeSupervisor
) -> None:
    response = await client.post("/v1/generate", content=ask(stream=True, steps=51))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (
        400,
        "limit_exceeded",
        "num_inference_steps",
    )
    assert supervisor.count("limit_exceeded") == 1


async def test_a_bad_picture_is_refused_by_its_name(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/generate", content=ask(image="aGVsbG8="))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_image", "image")
