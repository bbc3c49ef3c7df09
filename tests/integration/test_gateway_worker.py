"""The openai client, the gateway and a real worker: edits, masks and streams from end to end."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import pytest_asyncio
from PIL import Image

from tests.integration.worker_process import KEY, Worker, running_worker
from tests.pictures import opened
from tests.unit.gateway.builders import Harness, encoded, make_model, make_pool, make_worker, until
from tests.unit.gateway.conftest import running

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "tiny-1"
ASKED: dict[str, Any] = {"prompt": "a red circle", "model": "tiny"}
EXTRAS = {"seed": 7, "num_inference_steps": 4}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Worker]:
    async with running_worker(tmp_path_factory.mktemp("worker"), MODEL) as worker:
        yield worker


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(worker: Worker) -> AsyncIterator[Harness]:
    address = urlsplit(str(worker.client.base_url))
    pod = make_worker(namespace="team-a", pool="images", port=address.port, placement=((MODEL, True),))
    pool = make_pool("images", {"tiny": {MODEL: 100.0}}, namespace="team-a")
    model = make_model(MODEL, namespace="team-a", steps=2, size=(64, 64), max_steps=1000)
    async with running(KEY) as harness:
        harness.set_fleet(pod, pools=(pool,), models=(model,))
        await until(lambda: harness.gateway.fleet.snapshot.routes)
        yield harness


@pytest_asyncio.fixture(loop_scope="module")
async def caller(gateway: Harness) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def pixels(b64: str | None) -> Image.Image:
    return opened(b64).convert("RGB")


async def test_a_stream_brings_previews_and_the_picture_that_comes_without_one(
    caller: openai.AsyncOpenAI,
) -> None:
    whole = await caller.images.generate(**ASKED, extra_body=EXTRAS)
    stream = await caller.images.generate(**ASKED, extra_body=EXTRAS, stream=True, partial_images=2)
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert whole.data is not None
    assert events[-1].b64_json == whole.data[0].b64_json
    assert all(pixels(event.b64_json).width for event in events)


async def test_an_edit_has_its_pictures_size(caller: openai.AsyncOpenAI) -> None:
    edited = await caller.images.edit(
        **ASKED, image=encoded("PNG", (96, 64)), extra_body=EXTRAS | {"strength": 0.5}
    )
    assert edited.data is not None
    assert pixels(edited.data[0].b64_json).size == (96, 64)
    assert edited.size == "96x64"


async def test_a_mask_keeps_what_it_covers(caller: openai.AsyncOpenAI) -> None:
    # Black is kept; the right half is drawn anew.
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    stream = await caller.images.edit(
        **ASKED,
        image=encoded("PNG", (64, 64)),
        mask=buffer.getvalue(),
        extra_body=EXTRAS,
        stream=True,
        partial_images=1,
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    drawn = pixels(events[-1].b64_json)
    assert drawn.size == (64, 64)
    assert drawn.crop((0, 0, 24, 64)) != drawn.crop((40, 0, 64, 64))


async def test_a_workers_refusal_names_what_to_mend(caller: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await caller.images.edit(
            **ASKED, image=encoded("PNG", (64, 64)), mask=encoded("PNG", (32, 32)), extra_body=EXTRAS
        )
    assert (caught.value.code, caught.value.param) == ("invalid_image", "mask")


async def test_closing_a_stream_ends_the_work(
    caller: openai.AsyncOpenAI, worker: Worker, gateway: Harness
) -> None:
    long = {"num_inference_steps": 1000}
    stream = await caller.images.generate(**ASKED, extra_body=long, stream=True, partial_images=3)
    async for _ in stream:
        break
    await stream.close()

    async def is_idle() -> bool:
        return bool((await worker.model(MODEL))["running"] == 0)

    await worker.until(is_idle)
    await asyncio.wait_for(until(lambda: gateway.log), 10)
    assert gateway.log[-1]["status"] == 499
