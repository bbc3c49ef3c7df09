"""The gateway and two real workers, of which one must go: a caller's stream goes on as if nothing had happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from tests.integration.worker_process import KEY, Worker, bearer, running_worker
from tests.pictures import all_same
from tests.unit.gateway.builders import Harness, make_model, make_pool, make_worker, until
from tests.unit.gateway.conftest import running

MODEL = "tiny-1"
ASKED: dict[str, Any] = {
    "prompt": "a red circle",
    "model": "tiny",
    "stream": True,
    "partial_images": 3,
    "extra_body": {"seed": 7, "num_inference_steps": 400},
}


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        folders = [tmp_path / name for name in ("w1", "w2")]
        for folder in folders:
            folder.mkdir()
        started = [running_worker(folder, MODEL, IMAGEFLEET_INTERRUPT="checkpoint") for folder in folders]
        yield list(await asyncio.gather(*map(stack.enter_async_context, started)))


@pytest.fixture
async def gateway(workers: list[Worker]) -> AsyncIterator[Harness]:
    pods = [
        make_worker(
            f"w{number}",
            namespace="team-a",
            pool="images",
            port=urlsplit(str(worker.client.base_url)).port,
            placement=((MODEL, True),),
        )
        for number, worker in enumerate(workers, 1)
    ]
    pool = make_pool("images", {"tiny": {MODEL: 100.0}}, namespace="team-a")
    model = make_model(MODEL, namespace="team-a", steps=2, size=(64, 64), max_steps=1000)
    async with running(KEY) as harness:
        harness.set_fleet(*pods, pools=(pool,), models=(model,))
        await until(lambda: harness.gateway.fleet.snapshot.routes)
        yield harness


async def test_a_stream_goes_on_with_another_worker_and_brings_the_same_picture(
    gateway: Harness, workers: list[Worker]
) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as caller:
        undisturbed = [event async for event in await caller.images.generate(**ASKED)]
        events: list[Any] = []
        async for event in await caller.images.generate(**ASKED):
            if not events:
                (busy,) = [w for w in workers if (await w.model(MODEL))["running"]]
                await busy.client.post("/v1/worker/interrupt", headers=bearer("operator"))
            events.append(event)
    await until(lambda: len(gateway.log) == 2)
    first, second = gateway.log
    assert (first["interruptions"], second["interruptions"], second["status"]) == (0, 1, 200)
    assert [event.type for event in events] == [event.type for event in undisturbed]
    assert all_same([e.b64_json for e in events], [e.b64_json for e in undisturbed]), "previews too"
    assert b"imagefleet_gateway_resumed_total" in gateway.gateway.metrics.expose()
    assert gateway.gateway.bodies.used == 0, "the checkpoint is kept no longer than it is needed"
