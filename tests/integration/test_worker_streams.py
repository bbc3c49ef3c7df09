"""Streams of a real worker, as the openai client reads them, and the traces that it sends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import openai
import pytest
import pytest_asyncio
from PIL import Image

from tests.integration.openai_shim import shim
from tests.integration.worker_process import (
    MANY_STEPS,
    PROMPT,
    Json,
    Worker,
    bearer,
    connect,
    entries,
    picture,
    start_worker,
)
from tests.pictures import opened
from tests.unit.worker.http_fakes import served
from tests.unit.worker.otlp import Collector, collecting, spans_of, values
from tests.unit.worker.pictures import base64_of, encoded, noise

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def client(worker: Worker) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        served(shim(worker.client, lambda: bearer("gateway"))) as address,
        openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


async def test_the_openai_client_reads_previews_and_the_picture(
    worker: Worker, client: openai.AsyncOpenAI
) -> None:
    stream = await client.images.generate(
        model="tiny-1",
        prompt=PROMPT,
        size="64x64",
        stream=True,
        partial_images=2,
        extra_body={"steps": 6, "seed": 7},
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]  # type: ignore[union-attr]
    assert events[-1].size == "64x64"
    whole = await worker.generate(steps=6, seed=7)
    assert opened(events[-1].b64_json).tobytes() == picture(whole).tobytes()
    sizes = {opened(event.b64_json).format for event in events}
    assert sizes == {"PNG"}


async def test_the_openai_client_reads_an_edit(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.edit(
        model="tiny-1",
        prompt=PROMPT,
        image=("a.png", encoded(noise(64, 64))),
        stream=True,
        partial_images=1,
        extra_body={"steps": 6},
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert opened(events[-1].b64_json).size == (64, 64)


async def test_the_openai_client_raises_a_refusal_before_the_stream(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.images.generate(
            model="tiny-1", prompt=PROMPT, size="64x64", stream=True, extra_body={"steps": 5000}
        )
    assert refused.value.code == "limit_exceeded"


async def test_the_openai_client_raises_a_failure_in_the_stream(
    worker: Worker, client: openai.AsyncOpenAI
) -> None:
    stream = await client.images.generate(
        model="tiny-1",
        prompt=PROMPT,
        size="64x64",
        stream=True,
        partial_images=3,
        extra_body={"steps": MANY_STEPS},
    )
    events = aiter(stream)
    assert (await anext(events)).type == "image_generation.partial_image"
    [engine] = worker.engine_pids()
    os.kill(engine, signal.SIGKILL)
    with pytest.raises(openai.APIError) as failed:
        async for _ in events:
            pass
    assert failed.value.code == "engine_crashed"
    await worker.until_state("tiny-1", "Resident")


async def test_the_stream_of_a_model_that_is_suspended_ends_with_an_error(worker: Worker) -> None:
    entry = entries()["tiny-1"] | {"pinned": True}
    body = {"model": "tiny-1", "prompt": PROMPT, "steps": MANY_STEPS, "stream": True, "partial_images": 3}
    async with worker.client.stream("POST", "/v1/generate", headers=bearer("gateway"), json=body) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "event: image_generation.partial_image"
        await worker.put(entry | {"suspended": True})
        rest = [line async for line in lines if line.startswith(("event:", "data:"))]
    assert rest[-2] == "event: error"
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "model_suspended"
    await worker.put(entry)
    await worker.until_state("tiny-1", "Resident")


async def test_an_image_and_its_strength_change_the_picture(worker: Worker) -> None:
    image = base64_of(noise(64, 64))
    variants: list[Json] = [{}, {"image": image, "strength": 0.2}, {"image": image, "strength": 0.9}]
    pictures = {picture(await worker.generate(seed=7, steps=10, **fields)).tobytes() for fields in variants}
    assert len(pictures) == len(variants)


async def test_a_mask_keeps_what_is_black(worker: Worker) -> None:
    start, mask = noise(64, 64), Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    answer = await worker.generate(seed=7, steps=4, image=base64_of(start), mask=base64_of(mask))
    drawn, before = np.asarray(picture(answer)), np.asarray(start)
    assert (drawn[:, :16] == before[:, :16]).all()
    assert (drawn[:, 48:] != before[:, 48:]).any()


async def test_without_a_size_an_image_keeps_its_own(worker: Worker) -> None:
    answer = await worker.generate(image=base64_of(noise(98, 50)), steps=4)
    assert (picture(answer).size, answer.json()["size"]) == ((96, 48), "96x48")


async def test_a_caller_that_leaves_a_stream_frees_the_worker(worker: Worker) -> None:
    body = {"model": "tiny-1", "prompt": PROMPT, "steps": MANY_STEPS, "stream": True, "partial_images": 3}
    async with worker.client.stream("POST", "/v1/generate", headers=bearer("gateway"), json=body) as answer:
        assert answer.status_code == 200
        await anext(answer.aiter_lines())

    async def idle() -> bool:
        return bool((await worker.model("tiny-1"))["running"] == 0)

    await worker.until(idle)
    lines = [json.loads(line) for line in worker.output.read_text().splitlines() if line.startswith("{")]
    assert [line["code"] for line in lines if line["event"] == "request"][-1] == "client_disconnected"


async def test_a_requests_trace_tells_where_its_time_went(worker: Worker, collector: Collector) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    await worker.generate({"traceparent": f"00-{trace}-{parent}-01"}, steps=4, prompt=PROMPT)
    spans = await asyncio.to_thread(collector.trace, trace, "POST /v1/generate")
    root = spans["POST /v1/generate"]
    assert root.parent_span_id.hex() == parent
    names = ["queue", "text_encode", "denoise", "decode", "encode"]
    assert set(names) <= set(spans)
    times = [(spans[name].start_time_unix_nano, spans[name].end_time_unix_nano) for name in names]
    assert times == sorted(times)
    assert root.start_time_unix_nano <= times[0][0]
    assert times[-1][1] <= root.end_time_unix_nano
    assert values(spans["denoise"].attributes)["imagefleet.steps"] == 4


async def test_at_the_end_a_stream_is_finished_and_what_is_left_of_the_traces_sent(tmp_path: Path) -> None:
    with collecting() as collector:
        process, address = start_worker(
            tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.address, OTEL_BSP_SCHEDULE_DELAY="600000"
        )
        async with connect(process, address, tmp_path / "output") as worker:
            await worker.put(entries()["tiny-1"] | {"pinned": True})
            await worker.until_state("tiny-1", "Resident")
            body = {"model": "tiny-1", "prompt": PROMPT, "steps": 40, "stream": True, "partial_images": 3}
            call = worker.client.stream("POST", "/v1/generate", headers=bearer("gateway"), json=body)
            async with call as answer:
                lines = answer.aiter_lines()
                first = await anext(lines)
                process.send_signal(signal.SIGTERM)
                rest = [line async for line in lines if line.startswith("event:")]
        assert await asyncio.to_thread(process.wait, 30) == 0
        spans = spans_of(collector.next())
    assert (first, rest[-1]) == (
        "event: image_generation.partial_image",
        "event: image_generation.completed",
    )
    load = spans["load"]
    assert values(load.attributes) == {"imagefleet.model": "tiny-1"}
    assert {"verify", "fork", "weights", "warm", "POST /v1/generate"} <= set(spans)
    assert spans["weights"].parent_span_id == load.span_id
